"""Modules of the user's own: found in the current directory, on ``PYTHONPATH`` or installed."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

from params.base import BadInput


def search_path() -> list[str]:
    """Where a user's modules are looked for first: the current directory, then ``PYTHONPATH``."""
    return [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


def file_of(module: str) -> Path | None:
    """Where a module lies, without importing it or the packages above it; None where it is not found."""
    for entry in [*search_path(), *sys.path]:
        stem = Path(entry).joinpath(*module.split("."))
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                return path.resolve()
    return None


def source(module: str, where: str) -> Path:
    """The file of a module. Raises ``BadInput`` that begins with ``where`` for one not found."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise BadInput(f"{where}: '{module}'; expected a module's name, such as my_package.my_module")
    path = file_of(module)
    if path is None:
        raise BadInput(
            f"{where}: no module '{module}'; expected {module.replace('.', '/')}.py in the current directory "
            "or on PYTHONPATH"
        )
    return path


def load(module: str, where: str) -> ModuleType:
    """Import it. Raises ``BadInput`` for one that is not found or cannot be imported."""
    path = source(module, where)
    sys.path[:] = [*(entry for entry in search_path() if entry not in sys.path), *sys.path]
    try:
        return importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
        raise BadInput(f"{where}: {path}: cannot be imported ({error})") from None
