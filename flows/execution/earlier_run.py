"""An earlier run of the same name that asked for something else: it is kept, and the difference is told."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.execution.runner import run_directory
from params.base import BadInput, validate
from params.schema import Params
from params.speed import lasting
from tasks.artefacts.record import RECORD, Record
from tasks.report.format import flat

SHOWN = 3
"""Differences that are told; the rest is counted."""


def keep_earlier(root: Path, name: str, params: Params) -> str | None:
    """Move the run that lies at ``runs/NAME``, and was made with other parameters or has a record that cannot
    be read, to ``runs/NAME~1`` or the next free number; what a person should know of it, or None where there
    was nothing to move.

    More or fewer rounds of the same are no other run.
    """
    directory = run_directory(root, name)
    if not (directory / RECORD).exists():
        return None
    kept = next(path for n in count(1) if not (path := directory.with_name(f"{name}~{n}")).exists())
    try:
        record = Record.read(directory)
    except BadInput as error:
        directory.rename(kept)
        return f"{error}; what lies there is kept as {kept.name}"
    before = record.params
    with suppress(BadInput):  # a parameter that this version has brought is at its default
        before = validate(Params, before).model_dump(mode="json")
    changes = _changes(before, params.model_dump(mode="json"))
    if not changes:
        return None
    told = (
        f"{', '.join(changes[:SHOWN])}{f' and {len(changes) - SHOWN} more' if len(changes) > SHOWN else ''}"
    )
    if not record.policies():  # eight tries of one misspelt reward are no eight runs to keep
        return f"{name}: {told}; the earlier run had made no policy"
    directory.rename(kept)
    record.name = kept.name
    record.write_head(kept)
    return f"{name}: {told}; the earlier run is kept as {kept.name}"


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    old, new = flat(before), flat(now)
    words = []
    for key in sorted({*old, *new}):
        was, becomes = old.get(key), new.get(key)
        if was != becomes and key != "rounds" and _lasts(key):
            words.append(f"{key} {_shown(was)} → {_shown(becomes)}")
    return words


def _lasts(key: str) -> bool:
    """Whether a parameter changes what is made."""
    section, _, rest = key.partition(".")
    if section not in lasting(Params):
        return False
    kind = Params.model_fields[section].annotation
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return True
    field = rest.partition(".")[0]
    return field not in kind.model_fields or field in lasting(kind)


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
