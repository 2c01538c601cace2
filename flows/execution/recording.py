"""A run's record while a process is at the run: what an earlier one wrote stands as long as it holds."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from params.base import BadInput
from tasks.artefacts.record import Record, Step, Stop


class Recording:
    """Writes it. The first step that an earlier process did not record just so, or what a guard says for the
    first time, begins the record anew, with the steps that this process has settled."""

    def __init__(self, directory: Path, record: Record) -> None:
        self._directory, self._record = directory, record
        self._begun = self._continued = False

    def continue_with(self, before: Record) -> None:
        """Keep the steps that earlier processes recorded, as far as ``before`` has them."""
        self._record.steps, self._record.started = before.steps, before.started
        self._record.warnings = before.warnings
        self._continued = True

    def add(self, step: Step) -> None:
        """A stage is done."""
        if not self._begun and _identity(step) in self._earlier_steps:
            self._record.steps.append(step)
            return
        self._begin()
        self._record.append(self._directory, step)

    def warn(self, said: str) -> None:
        """A guard says so."""
        self._record.warnings = [*self._record.warnings, said]
        if self._begun or self._earlier is None or said not in self._earlier.warnings:
            self._begin()
            self._record.write_head(self._directory)

    def changed(self) -> None:
        """What the record says of the whole run is something else now."""
        if self._begun:
            self._record.write_head(self._directory)

    def stop(self, place: str, said: str) -> None:
        """The process ends at ``place``, before the run is finished. A run that an earlier process has
        finished stays so, as long as nothing of it is known to be another."""
        record = self._record if self._begun else self._earlier
        if record is not None and not record.finished:
            when = datetime.now(UTC).isoformat(timespec="seconds")
            record.stopped = Stop(place=place, said=said, when=when)
            record.write_head(self._directory)

    def finish(self, seconds: float) -> None:
        """Every stage is done; a stage of an earlier process that is none of this run's is forgotten."""
        self._record.finished, self._record.seconds = True, seconds
        if self._begun:
            self._record.write_head(self._directory)
        else:
            self._record.write(self._directory)

    @cached_property
    def _earlier(self) -> Record | None:
        """What an earlier process wrote; None where it wrote nothing."""
        if not self._continued:
            with suppress(BadInput):
                return Record.read(self._directory)
        return None

    @cached_property
    def _earlier_steps(self) -> set[tuple[str, str, str]]:
        return {_identity(step) for step in self._earlier.steps} if self._earlier else set()

    def _begin(self) -> None:
        if not self._begun:  # what an earlier process wrote of this run ends here, and not before
            self._record.write(self._directory)
            self._begun = True


def _identity(step: Step) -> tuple[str, str, str]:
    return step.place, step.fingerprint, step.digest
