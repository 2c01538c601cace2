"""What decides whether an answer is right. One judge, one file: a frozen ``Config`` and a ``judge``.

``judge(gold, answer, config)`` gives a ``Verdict``. It runs in processes of its own (``tasks.rewards.judge``)
and may hang, crash or eat memory there: nobody else notices. Such a module must not import torch.
"""

from __future__ import annotations

from types import ModuleType

from params.base import find_module


def find(name: str, where: str) -> ModuleType:
    """The judge that is called ``name``; raises ``BadInput``."""
    return find_module(__name__, name, "judge", where)
