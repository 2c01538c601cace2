"""A reward of the user's own, named ``package.module:function``.

It is written as ours, TRL's, verl's or OpenRLHF's; which, its parameters say (``tasks.rewards.signatures``).
It is imported only in the judging processes, from the current directory or ``PYTHONPATH``; here its file is
found and read, so that a misspelt name or an unknown signature is known before anything runs.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from params import user_code
from params.base import BadInput, nearest
from tasks.rewards.base import Bounds, Group, Verdict
from tasks.rewards.calls import CALLS
from tasks.rewards.signatures import Signature, StyleName, columns_of, style_of, written

WHOLE = ("trl", "openrlhf")
"""Styles whose functions are given all answers to a problem at once."""


class Options(Bounds):
    """How a function of one's own is called."""

    style: StyleName | None = None
    """Whose way it is written in; null: by its parameters."""
    messages: bool | None = None
    """``trl``: prompts and completions are lists of messages; null: where the problems' ``prompt`` is."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further arguments, by name."""


class Custom:
    """What a judge's module is otherwise: ``Config``, ``enter``, ``judge_group`` and so on."""

    Config = Options

    def __init__(self, module: str, function: str, file: Path, signature: Signature | None) -> None:
        self.file = file
        self._module, self._name = module, function
        self._signature = signature
        self._call: partial[Sequence[Verdict]]

    @classmethod
    def named(cls, name: str, where: str) -> Custom:
        """Raises ``BadInput`` where there is no such file, or no such function in it."""
        module, _, function = name.partition(":")
        path = source(name, where)
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError as error:
            raise BadInput(f"{where}: {path}:{error.lineno}: not Python ({error.msg})") from None
        defined = _defined(tree)
        if function not in defined and "*" not in defined:
            raise BadInput(f"{where}: no '{function}' in {path}{nearest(function, defined)}")
        return cls(module, function, path, written(tree, function))

    def check(self, config: Options, where: str) -> None:
        """Raises ``BadInput`` for a function that is written in no known way."""
        if self._signature:
            self._style(self._signature, config, f"{where}: {self._module}:{self._name}")

    def whole_groups(self, config: Options) -> bool:
        """Whether it is given whole groups."""
        return self._style(self._signature, config, f"{self._module}:{self._name}") in WHOLE

    def needs_columns(self, config: Options) -> tuple[str, ...]:
        """The columns that it has as parameters without a default."""
        if self._signature is None or self._style(self._signature, config, self._name) != "trl":
            return ()
        return columns_of(self._signature, config.arguments)

    def reads_columns(self, config: Options) -> bool:
        """Whether it is written in a way that hands it the problem's row."""
        return self._style(self._signature, config, f"{self._module}:{self._name}") != "ostinato"

    def enter(self, root: Path | None, config: Options) -> None:
        """Import the function, in a judging process."""
        function = getattr(user_code.load(self._module, "task.reward"), self._name)
        name = f"{self._module}:{self._name}"
        signature = Signature.of(function)
        style = self._style(self._signature, config, name)
        if self._signature is None:  # defined elsewhere: what was assumed of it must hold
            style_of(signature, style, config.arguments, f"task.reward: {name}")
        self._call = partial(CALLS[style], function, signature, config.arguments, config.messages, name)

    def judge_group(self, group: Group, config: Options) -> Sequence[Verdict]:
        """What the function says; anything that is no reward is the judge's failure."""
        return self._call(group)

    def _style(self, signature: Signature | None, config: Options, who: str) -> StyleName:
        """As told by the parameters; of a function that is defined elsewhere as chosen, or ours."""
        if signature is None:
            return config.style or "ostinato"
        return style_of(signature, config.style, config.arguments, who)


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
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(statement.name)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in statement.names)
        elif isinstance(statement, ast.Name) and isinstance(statement.ctx, ast.Store):
            names.add(statement.id)
    return names
