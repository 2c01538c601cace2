"""Source that is edited while a run goes on: a process may have read it before, or read it only now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows.execution.fingerprint import modules
from flows.execution.source import SOURCE, SourceTree
from flows.stage_table.requirements import requirements_of
from flows.stage_table.stage_def import StageDef
from params.schema import Params
from tasks.artefacts.digests import file_digest
from tasks.core.errors import StageFailure


class Edits:
    """Knows what the stages of a run stood on when it began."""

    def __init__(self, rows: Iterable[StageDef], params: Params, source: SourceTree = SOURCE) -> None:
        """Read all of it now: what a fingerprint says of it later is what it is now."""
        self._source = source
        self._files: dict[str, str] = {}
        for row in rows:
            source.digests(modules(row, params, source))
            for path in (path for part in requirements_of(row, params) for path in part.files):
                if path.is_file():
                    self._files[str(path)] = file_digest(path)

    def check(self, place: str, facts: Mapping[str, Any]) -> None:
        """Raises ``StageFailure`` where what a stage stands on by these facts was edited since."""
        edited = self._source.edited(facts["code"])
        for name, digest in facts["files"].items():
            if self._files.get(name, digest) != digest or (
                Path(name).is_file() and file_digest(Path(name)) != digest
            ):
                edited = edited or name
        if edited:
            raise StageFailure(
                f"{place}: {edited} was edited while the run went on; the same command goes on with it"
            )
