"""What every configuration stands on: a frozen model that knows its keys, and errors in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from params.errors import OstinatoError


class BadInput(OstinatoError):
    """Something a person gave is wrong."""

    exit_code = 2


class Config(BaseModel):
    """A frozen set of options. An unknown key is an error, and so is ``true`` where a number is expected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, about: ValidationInfo) -> Any:
        kinds = set(_kinds(cls.model_fields[str(about.field_name)].annotation))
        held = value if isinstance(value, list | tuple) else (value,)
        if kinds & {int, float} and bool not in kinds and any(isinstance(one, bool) for one in held):
            raise PydanticCustomError("number", "expected a number")
        return value


ConfigT = TypeVar("ConfigT", bound=Config)


class Choice(BaseModel):
    """A named part and the options that it alone understands: ``{name: grpo, clip_high: 0.28}``.

    The part's own ``Config`` checks the options, once, when the parameters are read.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """A name alone stands for the part with its own defaults: ``reward: package.module:function``."""
        return {"name": value} if isinstance(value, str) else value

    def resolve(self, config: type[ConfigT], where: str) -> ConfigT:
        """The options as ``config``; raises ``BadInput`` naming ``where.key`` and the nearest right key."""
        return validate(config, self.model_extra or {}, where)


def _kinds(annotation: Any) -> Iterator[Any]:
    """The plain types that an annotation is made of."""
    inside = get_args(annotation)
    if not inside:
        yield annotation
    for each in inside:
        yield from _kinds(each)


def value_at(section: Any, path: str) -> Any:
    """The value at a dotted path below a section or a mapping of sections; None below one that is None."""
    for part in path.split("."):
        if section is not None:
            section = section[part] if isinstance(section, dict) else getattr(section, part)
    return section


def nearest(word: str, among: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest spelling among the given ones, or the whole list."""
    known = sorted(among)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def validate(config: type[ConfigT], values: dict[str, Any], where: str = "") -> ConfigT:
    """``values`` as a ``config``; raises ``BadInput`` for the first thing that is wrong with them."""
    try:
        return config.model_validate(values)
    except ValidationError as error:
        raise BadInput(_one_line(config, error, where)) from None


def _one_line(config: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    path = ".".join(str(part) for part in (*([where] if where else []), *first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown key{nearest(str(first['loc'][-1]), _keys(config, first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"{path}: missing; expected a value here"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # our own validators name the keys that they compare
        return message
    return f"{path}: {message[0].lower()}{message[1:]}, got {first['input']!r}"


def _keys(config: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed at ``location`` inside ``config``."""
    here: Any = config
    for part in location:
        if get_origin(here) is not None:  # a mapping or a tuple of configurations: on to those
            here = next(kind for kind in reversed(get_args(here)) if kind is not Ellipsis)
            continue
        field = getattr(here, "model_fields", {}).get(part)
        here = _given(field.annotation) if field else here
    return list(getattr(here, "model_fields", ()))


def _given(kind: Any) -> Any:
    """What an optional section holds where there is one."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    return next((one for one in get_args(kind) if one is not NoneType), kind)
