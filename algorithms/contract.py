"""The papers' mathematics: tensors in, tensors out. One algorithm, one file.

An objective is a module with a frozen ``Config`` and a ``token_loss``; naming the module in a method's YAML
is all it takes to use it. A new one is a new file.
"""

from __future__ import annotations

from types import ModuleType

from params.base import find_module


def find(name: str, attribute: str, where: str) -> ModuleType:
    """The module of this package that is called ``name`` and has ``attribute``; raises ``BadInput``."""
    return find_module("algorithms", name, attribute, where)
