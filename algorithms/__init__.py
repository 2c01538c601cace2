"""The papers' mathematics: tensors in, tensors out. One algorithm, one file.

An objective is a module with a frozen ``Config`` and a ``token_loss``; naming the module in a method's YAML is
all it takes to use it. A new one is a new file.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from params import BadInput, nearest


def find(name: str, attribute: str, where: str) -> ModuleType:
    """The module of this package that is called ``name`` and has ``attribute``; raises ``BadInput``."""
    modules = [m.name for m in pkgutil.iter_modules(__path__)]
    if name in modules:
        module = importlib.import_module(f"{__name__}.{name}")
        if hasattr(module, attribute):
            return module
    usable = [m for m in modules if hasattr(importlib.import_module(f"{__name__}.{m}"), attribute)]
    raise BadInput(f"{where}: no '{name}' with a {attribute} in algorithms/{nearest(name, usable)}")
