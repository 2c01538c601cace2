"""Finding an environment by name: a module of this package, or a class of the user's own.

``my_file.py:Name`` or ``package.module:Name`` is found in the current directory, on ``PYTHONPATH`` or
installed. Here its file is read and not run: it is imported in the environments' own process.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from params import user_code
from params.base import BadInput, Choice, nearest
from tasks.environments.adapters import Kind, kind_of

PACKAGE = "tasks.environments"
EXPECTED = "expected start and step, or init and step, or reset (docs/episodes.md)"


@dataclass(frozen=True)
class Found:
    """An environment's class, not imported yet where it is the user's own."""

    module: str
    name: str
    kind: Kind
    file: Path
    own: bool
    """Whether it is the user's."""
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def named(cls, name: str, where: str) -> Found:
        """Raises ``BadInput`` where there is no such module, or no environment in it."""
        if ":" in name:
            return _written(name, where)
        known = environments()
        if name not in known:
            raise BadInput(f"{where}: no '{name}' in tasks/environments/{nearest(name, known)}")
        module = importlib.import_module(f"{PACKAGE}.{known[name]}")
        made = module.ENVIRONMENT
        kind = kind_of(lambda method: callable(getattr(made, method, None)))
        assert kind is not None
        return cls(module.__name__, made.__name__, kind, Path(str(module.__file__)), own=False)

    def with_options(self, options: dict[str, Any]) -> Found:
        """The same, made with these keyword arguments."""
        return replace(self, options=options)

    def load(self) -> type:
        """The class. Raises ``BadInput`` where it cannot be imported or does not take its options."""
        where = "task.environment"
        module = user_code.load(self.module, where) if self.own else importlib.import_module(self.module)
        made: Any = getattr(module, self.name)
        if kind_of(lambda method: callable(getattr(made, method, None))) is None:
            raise BadInput(f"{where}: {self.file}: {self.name} is no environment; {EXPECTED}")
        if self.kind != "text" and self.options:
            taken = inspect.signature(made).parameters
            for name in self.options.keys() - taken.keys():
                raise BadInput(f"{where}.{name}: {self.name} takes no such option{nearest(name, taken)}")
        return made  # type: ignore[no-any-return]


def chosen_environment(choice: Choice, where: str = "task.environment") -> Found:
    """That of a choice, with its options. Raises ``BadInput``."""
    return Found.named(choice.name, where).with_options(choice.model_extra or {})


def environments() -> dict[str, str]:
    """The modules of this package that hold an environment, by the names that people give."""
    names = [each.name for each in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__)]
    held = [n for n in names if hasattr(importlib.import_module(f"{PACKAGE}.{n}"), "ENVIRONMENT")]
    return {name.replace("_", "-"): name for name in held}


def source(name: str, where: str = "task.environment") -> Path:
    """The file of ``my_file.py:Name``. Raises ``BadInput``."""
    return user_code.source(_module(name), where)


def _module(name: str) -> str:
    return name.partition(":")[0].removesuffix(".py").replace("/", ".")


def _written(name: str, where: str) -> Found:
    module, called = _module(name), name.partition(":")[2]
    path = user_code.source(module, where)
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise BadInput(f"{where}: {path}:{error.lineno}: not Python ({error.msg})") from None
    classes = {each.name: each for each in tree.body if isinstance(each, ast.ClassDef)}
    if called not in classes:
        raise BadInput(f"{where}: no class '{called}' in {path}{nearest(called, classes)}")
    kind = kind_of(_methods(classes[called], classes).__contains__)
    if kind is None and not classes[called].bases:
        raise BadInput(f"{where}: {path}: {called} is no environment; {EXPECTED}")
    return Found(module, called, kind or "text", path, own=True)


def _methods(chosen: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Sequence[str]:
    """The names of its methods, and of those that it has from classes of the same file."""
    own = [each.name for each in chosen.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    bases = [base.id for base in chosen.bases if isinstance(base, ast.Name) and base.id in classes]
    return [
        *own,
        *(name for base in bases if base != chosen.name for name in _methods(classes[base], classes)),
    ]
