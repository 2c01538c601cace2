"""Rules on a run's figures, looked at whenever a stage that tells one is done, made or found.

Nothing is remembered but the artefacts, so that a run which is taken up again, or which DVC makes stage by
stage, warns and stops at the same place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from params.base import BadInput, nearest
from params.errors import OstinatoError
from params.guards import Guard
from tasks.artefacts.artefact import MANIFEST, Artefact


class Stopped(OstinatoError):
    """A guard ended the run."""

    exit_code = 3


def check(guards: Sequence[Guard], stages: Sequence[str]) -> None:
    """Raises ``BadInput`` for a rule on a stage that the run does not have."""
    for place, guard in enumerate(guards):
        stage = guard.figure.partition(".")[0]
        if stage not in stages:
            raise BadInput(f"guards.{place}.figure: no stage '{stage}'{nearest(stage, stages)}")


def look(guards: Sequence[Guard], directory: Path, place: str, made: Artefact) -> Iterator[str]:
    """What is to be said of the stage that was just done at ``place`` of a run.

    A figure that the stage does not tell (an update with nothing to learn has no entropy) breaks no rule; it
    is said, for it may be misspelt. Raises ``Stopped``.
    """
    from tasks.report.curves import artefact_figures  # few runs have guards, and scipy takes a second

    stage = place.rpartition("/")[2]
    for number, guard in enumerate(guards):
        if guard.figure.partition(".")[0] != stage:
            continue
        told = [
            dict(artefact_figures(artefact, stage))
            for artefact in (made, *_before(directory, place, made.manifest.round, guard.rounds - 1))
        ]
        if guard.figure not in told[0]:
            near = nearest(guard.figure, told[0])
            yield f"guards.{number}.figure: {stage} does not always tell '{guard.figure}'{near}"
        values = [figures.get(guard.figure) for figures in told]
        if len(values) < guard.rounds or not all(v is not None and guard.broken(v) for v in values):
            continue
        times = f", {guard.rounds} times in a row" if guard.rounds > 1 else ""
        said = f"{place}: {guard.figure} is {values[0] or 0.0:.4g}, {guard.words()}{times} (guards.{number})"
        yield said
        if guard.then == "stop":
            raise Stopped(f"{said}; the run stops here, and goes on by the same command without that guard")


def _before(directory: Path, place: str, round: int, count: int) -> list[Artefact]:
    """What the stage made in the rounds before, the latest first."""
    stage, found = place.rpartition("/")[2], list[Artefact]()
    for earlier in range(round - 1, -1, -1):
        if len(found) == count:
            break
        folder = directory / f"round-{earlier:02d}" / stage
        if (folder / MANIFEST).is_file():
            found.append(Artefact.open(folder, check=False))
    return found
