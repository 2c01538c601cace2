"""Parts that are found by name: a module, of a package of ours or of the user's own, as a typed record.

A part's contract is a frozen dataclass that derives from ``Part``, with one field a hook: a function or a
constant that the module may have. ``find_part`` fills the record, and refuses what would be ignored:

- a hook that cannot be called with the contract's parameters, in their order, or a constant of another type;
- a public function of the module's own that is no hook, for it may be one misspelt. Functions for other
  callers are listed in the module's ``__all__``; helpers begin with an underscore;
- a constant in capitals whose name is nearly a hook's.

A dotted name, ``package.module``, is a module of the user's own (``params.user_code``).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import FunctionType, ModuleType, NoneType
from typing import Any, TypeVar, cast

from params import user_code
from params.base import BadInput, Config, nearest


@dataclass(frozen=True)
class Part:
    """What every part has."""

    name: str
    """The last part of its module's name."""
    file: Path
    """Its source."""
    Config: type[Config]
    """Its options, all of them with defaults or checked when the parameters are read."""


PartT = TypeVar("PartT", bound=Part)


def find_part(kind: type[PartT], package: str, name: str, hook: str | tuple[str, ...], where: str) -> PartT:
    """The module of ``package`` that is called ``name``, or the user's own, with that hook (or one of
    several), as a ``kind``.

    Adding a part is adding a file: nothing else lists it. Raises ``BadInput``.
    """
    hooks = (hook,) if isinstance(hook, str) else hook
    if "." in name:
        found = filled(kind, user_code.load(name, where))
        if all(getattr(found, each) is None for each in hooks):
            raise BadInput(f"{where}: {found.file}: no {hooks[0]}; expected one there")
        return found
    known = _modules(package)
    if name in known:
        found = filled(kind, importlib.import_module(f"{package}.{name}"))
        if any(getattr(found, each) is not None for each in hooks):
            return found
    modules = {each: importlib.import_module(f"{package}.{each}") for each in known}
    usable = [each for each, module in modules.items() if any(hasattr(module, hook) for hook in hooks)]
    folder = package.replace(".", "/")
    raise BadInput(f"{where}: no '{name}' with a {hooks[0]} in {folder}/{nearest(name, usable)}")


def filled(kind: type[PartT], module: ModuleType) -> PartT:
    """The record of a module; raises ``BadInput`` for what is no hook and for one that does not fit."""
    file = Path(str(module.__file__))
    types = _hooks(cast(Any, kind))
    hooks = {name: getattr(module, name) for name in types if hasattr(module, name)}
    if "Config" not in hooks:
        raise BadInput(f"{file}: no Config; expected a class of options")
    for name, value in hooks.items():
        expected = _misfit(value, types[name])
        if expected:
            raise BadInput(f"{file}: {name} does not fit; expected {name}{expected}")
    _refuse_unknown(module, file, types)
    return kind(name=module.__name__.rpartition(".")[2], file=file, **hooks)


@functools.cache
def _modules(package: str) -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))


@functools.cache
def _hooks(kind: Any) -> dict[str, Any]:
    """The type of each hook."""
    types = typing.get_type_hints(kind)
    return {each.name: types[each.name] for each in fields(kind) if each.name not in ("name", "file")}


def _refuse_unknown(module: ModuleType, file: Path, hooks: dict[str, Any]) -> None:
    for name, value in vars(module).items():
        own = isinstance(value, FunctionType) and value.__module__ == module.__name__
        alike = name.isupper() and bool(difflib.get_close_matches(name, hooks, n=1, cutoff=0.8))
        known = name.startswith("_") or name in hooks or name in getattr(module, "__all__", ())
        if (own or alike) and not known:
            raise BadInput(
                f"{file}: '{name}' is no hook{nearest(name, hooks)}; expected a hook, or a name that begins "
                "with an underscore or is in __all__"
            )


def _misfit(value: object, wanted: Any) -> str:
    """What was expected of a hook that does not fit; empty for one that does."""
    kind = next((each for each in typing.get_args(wanted) if NoneType in typing.get_args(wanted)), wanted)
    origin = typing.get_origin(kind) or kind
    if origin is type:
        return "" if isinstance(value, type) and issubclass(value, Config) else ", a class of options"
    if origin is Callable:
        names = [f"argument {place + 1}" for place in range(len(typing.get_args(kind)[0]))]
    elif hasattr(origin, "_is_protocol"):
        given = list(inspect.signature(kind.__call__).parameters.values())[1:]
        names = [each.name for each in given if each.kind is not each.VAR_POSITIONAL]
    else:
        return "" if isinstance(value, origin) else f": {kind}"
    return "" if callable(value) and _takes(value, names) else f"({', '.join(names)})"


def _takes(function: Callable[..., Any], names: list[str]) -> bool:
    """Whether it can be called with so many arguments, none of which it takes for another."""
    signature = inspect.signature(function)
    try:
        signature.bind(*names)
    except TypeError:
        return False
    own = [name for name in signature.parameters if name in names]
    return own == [name for name in names if name in own]
