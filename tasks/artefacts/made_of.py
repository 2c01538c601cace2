"""Which artefacts of the cache were made of which others."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tasks.artefacts.artefact import MANIFEST, Artefact, Damaged


class _Origin(NamedTuple):
    round: int
    inputs: frozenset[str]
    """Digests."""


class MadeOf:
    """Of the artefacts under one directory. Their names are fingerprints, which fix what they were made of:
    each manifest is read once, and a search costs the listing of the directory."""

    def __init__(self, artefacts: Path) -> None:
        self._artefacts = artefacts
        self._known: dict[str, _Origin] = {}
        self._lock = threading.Lock()

    def find(self, stage: str, round: int, digests: set[str]) -> Iterator[Artefact]:
        """Artefacts of a stage and round with all these digests among their inputs', the newest first."""
        found = []
        for name in self._names(stage):
            origin = self._origin(name)
            if origin and origin.round == round and digests <= origin.inputs:
                with suppress(FileNotFoundError):
                    found.append(((self._artefacts / name / MANIFEST).stat().st_mtime_ns, name))
        for _, name in sorted(found, reverse=True):
            with suppress(Damaged, FileNotFoundError, NotADirectoryError):
                artefact = Artefact.open(self._artefacts / name, check=False)
                if artefact.manifest.stage == stage:
                    yield artefact

    def _names(self, stage: str) -> list[str]:
        with suppress(FileNotFoundError), os.scandir(self._artefacts) as entries:
            return [entry.name for entry in entries if entry.name.startswith(f"{stage}-")]
        return []

    def _origin(self, name: str) -> _Origin | None:
        """None where there is no manifest that can be read; it may come yet."""
        if name not in self._known:
            try:
                body = json.loads((self._artefacts / name / MANIFEST).read_bytes())
                inputs = frozenset(source["digest"] for source in body["inputs"].values())
                origin = _Origin(body["round"], inputs)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                return None
            with self._lock:
                self._known[name] = origin
        return self._known[name]
