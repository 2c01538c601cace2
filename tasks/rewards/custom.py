"""A reward of the user's own, named ``package.module:function``: ``function(gold, answer) -> float``.

It may also return a ``Verdict``, to give a reason. It is imported only in the judging processes, from the
current directory or ``PYTHONPATH``; here its file is found and read, so that a misspelt name is known before
anything runs.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from params import user_code
from params.base import BadInput, nearest
from tasks.rewards.base import Bounds, Verdict


class Custom:
    """What a judge's module is otherwise: ``Config``, ``enter`` and ``judge``."""

    Config = Bounds

    def __init__(self, module: str, function: str, file: Path) -> None:
        self.file = file
        self._module, self._function = module, function
        self._reward: Callable[[str, str], Any]

    @classmethod
    def named(cls, name: str, where: str) -> Custom:
        """Raises ``BadInput`` where there is no such file, or no such function in it."""
        module, _, function = name.partition(":")
        path = source(name, where)
        try:
            defined = _defined(ast.parse(path.read_bytes()))
        except SyntaxError as error:
            raise BadInput(f"{where}: {path}:{error.lineno}: not Python ({error.msg})") from None
        if function not in defined and "*" not in defined:
            raise BadInput(f"{where}: no '{function}' in {path}{nearest(function, defined)}")
        return cls(module, function, path)

    def enter(self, root: Path | None, config: Bounds) -> None:
        """Import the function, in a judging process."""
        self._reward = getattr(user_code.load(self._module, "task.reward"), self._function)

    def judge(self, gold: str, answer: str, config: Bounds) -> Verdict:
        """What the function says; anything that is no reward is the judge's failure."""
        found = self._reward(gold, answer)
        verdict = found if isinstance(found, Verdict) else Verdict(found)
        reward, name = verdict.reward, f"{self._module}:{self._function}"
        if isinstance(found, Verdict) and reward is None:
            return Verdict(None, str(verdict.error or f"{name} gave no reward and no reason"))
        try:
            number = float(reward)  # type: ignore[arg-type]  # whatever the function returned
        except (TypeError, ValueError, OverflowError):
            return Verdict(None, f"{name} returned {_kind(reward)}; expected a number or a Verdict")
        if isinstance(reward, str | bytes) or not math.isfinite(number):
            return Verdict(None, f"{name} returned {_kind(reward)}; expected a finite number")
        return Verdict(number, None if verdict.error is None else str(verdict.error))


def source(name: str, where: str = "task.reward") -> Path:
    """The file of the module in ``package.module:function``; raises ``BadInput``."""
    module, _, function = name.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        raise BadInput(f"{where}: '{name}'; expected package.module:function")
    return user_code.source(module, where)


def _defined(tree: ast.Module) -> set[str]:
    """The names that a module's own statements bind."""
    names: set[str] = set()
    for statement in ast.walk(tree):
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names.add(statement.name)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in statement.names)
        elif isinstance(statement, ast.Name) and isinstance(statement.ctx, ast.Store):
            names.add(statement.id)
    return names


def _kind(value: object) -> str:
    return repr(value)[:40] if isinstance(value, float) else f"a {type(value).__name__}"
