"""Whose way of writing a reward function is, told by the names of its parameters, without importing it.

ostinato    (gold, answer) -> number or Verdict
trl         (prompts, completions, completion_ids, **columns) -> list of numbers or None
verl        (data_source, solution_str, ground_truth, extra_info) -> number, or mapping with score
openrlhf    (queries, prompts, labels) -> numbers, or mapping with rewards
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from params.base import BadInput

StyleName = Literal["ostinato", "trl", "verl", "openrlhf"]


@dataclass(frozen=True)
class Style:
    """One way of writing a reward function."""

    shown: str
    tells: frozenset[str]
    """Parameters of which one, of ``ostinato`` all, tell it from the others."""
    offered: frozenset[str]
    """Parameters that are filled; a ``trl`` function gets the columns of the problems besides."""


TRL_OFFERS = frozenset(
    (
        "prompts",
        "completions",
        "completion_ids",
        "completions_ids",
        "trainer_state",
        "log_extra",
        "log_metric",
    )
)
STYLES: dict[StyleName, Style] = {
    "ostinato": Style("(gold, answer)", frozenset(("gold", "answer")), frozenset(("gold", "answer"))),
    "trl": Style(
        "TRL's (prompts, completions, **columns)",
        frozenset(("completions", "completion_ids", "completions_ids")),
        TRL_OFFERS,
    ),
    "verl": Style(
        "verl's (data_source, solution_str, ground_truth, extra_info)",
        frozenset(("solution_str",)),
        frozenset(("data_source", "solution_str", "ground_truth", "extra_info")),
    ),
    "openrlhf": Style(
        "OpenRLHF's (queries, prompts, labels)",
        frozenset(("queries",)),
        frozenset(("queries", "prompts", "labels")),
    ),
}


@dataclass(frozen=True)
class Signature:
    """The parameters of a function."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    """Those without a default."""
    rest: bool
    """Whether it takes any other by keyword."""

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Signature:
        """Of a function that is there."""
        given = inspect.signature(function).parameters.values()
        plain = [each for each in given if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
        return cls(
            tuple(each.name for each in plain),
            tuple(each.name for each in plain if each.default is each.empty),
            any(each.kind is each.VAR_KEYWORD for each in given),
        )

    def offered(self, values: dict[str, Any]) -> dict[str, Any]:
        """Those of the values that it takes."""
        return values if self.rest else {name: values[name] for name in self.names if name in values}


def written(tree: ast.Module, function: str) -> Signature | None:
    """The parameters of a function that a module defines; None where it binds the name otherwise."""
    for node in _statements(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function:
            given = node.args
            places = [*given.posonlyargs, *given.args]
            later = [
                each.arg
                for each, value in zip(given.kwonlyargs, given.kw_defaults, strict=True)
                if value is None
            ]
            first = places[: len(places) - len(given.defaults)]
            return Signature(
                tuple(each.arg for each in (*places, *given.kwonlyargs)),
                (*(each.arg for each in first), *later),
                given.kwarg is not None,
            )
    return None


def style_of(signature: Signature, chosen: StyleName | None, more: Collection[str], who: str) -> StyleName:
    """The style of a function; ``more`` are arguments that it is given besides. Raises ``BadInput``."""
    names = frozenset(signature.names)
    found = [chosen] if chosen else [each for each in STYLES if _tells(each, names)]
    if len(found) > 1:
        raise BadInput(f"{who} fits {' and '.join(found)}; expected task.reward.style, one of the two")
    missing = set(signature.required) - STYLES[found[0]].offered - set(more) if found else names
    if not found or (missing and found[0] != "trl"):
        known = ", ".join(style.shown for style in STYLES.values())
        raise BadInput(f"{who} takes ({_listed(signature)}); expected {known}")
    return found[0]


def columns_of(signature: Signature, more: Collection[str]) -> tuple[str, ...]:
    """The columns of the problems that a ``trl`` function cannot do without."""
    return tuple(name for name in signature.required if name not in TRL_OFFERS and name not in more)


def _tells(style: StyleName, names: frozenset[str]) -> bool:
    tells = STYLES[style].tells
    return tells <= names if style == "ostinato" else bool(tells & names)


def _listed(signature: Signature) -> str:
    return ", ".join([*signature.names, *(["**"] if signature.rest else [])])


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that a module runs itself, also below an ``if`` or a ``try``."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from _statements(child)
