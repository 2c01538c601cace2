"""Dropping files of an artefact whose manifest stays: first it is said which, then they go.

Whatever moment this is cut off at, ``thinned.json`` names every file that is missing, and the next time
finishes it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from tasks.artefacts.artefact import THINNED, Artefact, Thinning, sync_directory
from tasks.artefacts.store import Store


def thin(
    store: Store, place: Path, names: Collection[str], figures: Mapping[str, float | int | None] | None = None
) -> None:
    """Drop files, by their names, of the artefact at a place, beside those that were dropped before.

    ``figures``: what a report is to say of them, where it is not said yet. Raises ``FileNotFoundError`` where
    no artefact is, ``Damaged`` where one was.
    """
    artefact = Artefact.open(place, check=False)
    before = artefact.thinned
    listed = {*names} & {*artefact.manifest.files} | {*(before.dropped if before else ())}
    said = {**(figures or {}), **(before.figures if before else {})}
    now = Thinning(digest=artefact.digest, dropped=tuple(sorted(listed)), figures=said)
    if now.dropped and now != before:
        _say(store, place, now)
    for name in now.dropped:
        (place / name).unlink(missing_ok=True)


def _say(store: Store, place: Path, now: Thinning) -> None:
    """Write it whole or not at all, and to the disk before a file goes."""
    with store.beside(place.name) as new:
        with new.open("wb") as handle:
            handle.write(now.to_bytes())
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(new, place / THINNED)
    sync_directory(place)
