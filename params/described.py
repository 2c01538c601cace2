"""What may be chosen: every key, what it is and what it means, as the schema has it."""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from params.base import Choice, Config

NEEDED = object()
"""The value of a key that has no default."""


@dataclass(frozen=True)
class Described:
    """One key."""

    key: str
    """Dotted; ``NAME`` and ``N`` stand for any name and any place in a list."""
    value: Any
    """What it is where nothing else is chosen, or ``NEEDED``."""
    meaning: str


def described(config: type[Config], values: Config | None = None, before: str = "") -> Iterator[Described]:
    """Every key of a section and of those within it, in their order; ``values``: as they are chosen, else the
    defaults."""
    said = meanings(config)
    for name, field in config.model_fields.items():
        value = _value(field.get_default(call_default_factory=True), values, name)
        key = f"{before}{name}"
        inside, more = _inside(field.annotation)
        if inside is None or more or value is None:
            yield Described(key, value, said.get(name, ""))
        if inside is not None:
            yield from described(inside, value if isinstance(value, inside) else None, f"{key}.{more}")


def meanings(config: type[BaseModel]) -> dict[str, str]:
    """What the docstring below each key of a section says, in one line."""
    found: dict[str, str] = {}
    for each in reversed(config.__mro__):
        if not issubclass(each, Config) or each is Config:
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(body, ast.ClassDef)
        for key, text in zip(body.body, body.body[1:], strict=False):
            match key, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    found[name] = " ".join(said.split())
    return found


def plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return None if value is NEEDED else value


def _value(default: Any, values: Config | None, name: str) -> Any:
    if values is not None:
        return getattr(values, name)
    return NEEDED if default is PydanticUndefined else default


def _inside(annotation: Any) -> tuple[type[Config] | None, str]:
    """The section that a key holds, and what stands before the section's own keys: of a list or of names."""
    if isinstance(annotation, type) and issubclass(annotation, Config) and not issubclass(annotation, Choice):
        return annotation, ""
    of = typing.get_origin(annotation)
    for part in typing.get_args(annotation):
        section, more = _inside(part)
        if section is not None:
            own = "NAME." if of is dict else "N." if of in (tuple, list) else ""
            return section, own + more
    return None, ""
