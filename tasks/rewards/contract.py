"""What decides whether an answer is right. One judge, one file: a frozen ``Config`` and a ``judge``.

``judge(gold, answer, config)`` gives a ``Verdict``. It runs in processes of its own (``tasks.rewards.judge``)
and may hang, crash or eat memory there: nobody else notices. Such a module must not import torch. It may have

- ``enter(root, config)``, called once in each process before anything is judged and before its limits hold;
  ``root`` is the directory of the problems (their artefact), or None where there is none;
- ``confine()``, called once in each process after that: limits beyond those that hold for every judge.

A name with a colon, ``package.module:function``, is a function of the user's own (``tasks.rewards.custom``).
"""

from __future__ import annotations

from types import ModuleType

from params.base import find_module
from tasks.rewards.custom import Custom


def find_reward(name: str, where: str) -> ModuleType | Custom:
    """The judge that is called ``name``; raises ``BadInput``."""
    if ":" in name:
        return Custom.named(name, where)
    return find_module("tasks.rewards", name, "judge", where)
