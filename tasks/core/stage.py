"""The shape of a stage: artefacts in, files of one artefact out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.core.context import Context


@dataclass(frozen=True)
class Job:
    """One call of a stage."""

    params: Params
    """All parameters; a stage reads only those that the stage table declares for it."""
    round: int
    """The round it belongs to; 0 before the first."""
    inputs: Mapping[str, Artefact]
    """By the names of the stage table; absent where the stage runs without (round 1 has no policy)."""
    out: Path
    """An empty directory to fill. It becomes the artefact when the stage returns."""
    context: Context
    """Progress, and what outlives the stage."""
    fingerprint: str = ""
    """What the artefact is to be."""
    answers: Artefact | None = None
    """One with the answers that the stage would sample, judged in another way."""


class Stage(Protocol):
    """A stage fills ``job.out`` and returns what it measured of itself (seconds, tokens, bytes).

    The files hold what the parameters and inputs determine and nothing else; what varies from one
    making to the next is returned, and goes into the manifest.
    """

    def __call__(self, job: Job) -> dict[str, float]:
        """Make the artefact."""
