"""Options laid over others, and parts that a person names by their presets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from params.base import nearest


def merge(
    under: Mapping[str, Any], over: Mapping[str, Any], sections: Collection[str] = ()
) -> dict[str, Any]:
    """``over`` laid on ``under``, key by key. A part with another ``name`` replaces the old part whole.

    Keys in ``sections`` hold no parts: both engines take the options of ``engine``, whatever its ``name``.
    """
    merged = dict(under)
    for key, given in over.items():
        old, value = merged.get(key), given
        if key in ("sets", "tasks"):  # names alone stand for their presets
            old, value = _by_name(old), _by_name(value)
        if isinstance(old, str) and isinstance(value, dict):  # a part that is named and nothing more
            old = {"name": old}
        same_part = (
            isinstance(value, dict)
            and isinstance(old, dict)
            and (key in sections or value.get("name", old.get("name")) == old.get("name"))
        )
        merged[key] = merge(old, value) if same_part and isinstance(old, dict) else value
    return merged


def _by_name(sets: Any) -> Any:
    return {name: {} for name in sets} if isinstance(sets, list) else sets


def preset_names(folder: Path) -> list[str]:
    """The names of the presets in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def laid_on_presets(
    given: Any, folder: Path, where: str, part_of: Callable[[dict[str, Any]], dict[str, Any]]
) -> Any:
    """Names, in a list or in a text with commas, or a mapping of names to options: each laid on ``part_of``
    what the preset of its name holds. Anything else is left to the schema. Raises ``ValueError``.
    """
    if isinstance(given, str):
        given = [name.strip() for name in given.split(",")]
    if isinstance(given, list | tuple) and all(isinstance(name, str) for name in given):
        given = dict.fromkeys(given)
    if not isinstance(given, Mapping):
        return given
    return {name: _laid_on(name, chosen, folder, where, part_of) for name, chosen in given.items()}


def _laid_on(
    name: str, chosen: Any, folder: Path, where: str, part_of: Callable[[dict[str, Any]], dict[str, Any]]
) -> Any:
    known = preset_names(folder)
    if not isinstance(chosen, Mapping | None):
        return chosen
    if name in known:
        return merge(part_of(yaml.safe_load((folder / f"{name}.yaml").read_text())), chosen or {})
    if not chosen or "problems" not in chosen:
        raise ValueError(f"{where}.{name}: no such preset{nearest(name, known)}")
    return chosen
