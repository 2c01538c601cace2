"""What a run did, on disk: ``runs/NAME/run.json``. The report, ``status`` and ``show`` read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from params.base import BadInput
from tasks.artefacts.artefact import write_json

RECORD = "run.json"


class Step(BaseModel):
    """One stage of a run, done."""

    model_config = ConfigDict(extra="forbid")
    place: str
    """Where it lies in the run's directory: ``model``, ``problems``, ``round-03/update``."""
    stage: str
    round: int
    fingerprint: str
    digest: str
    outcome: Literal["made", "cached"]
    seconds: float
    """Wall time that it took in this run, making or checking."""


class Record(BaseModel):
    """A run: its parameters and its steps, in the order in which they were done."""

    model_config = ConfigDict(extra="forbid")
    name: str
    command: str
    """What reproduces it."""
    params: dict[str, Any]
    started: str
    """UTC, ISO 8601."""
    seconds: float = 0.0
    """Wall time so far, Prefect's start included."""
    finished: bool = False
    steps: list[Step] = []

    def write(self, directory: Path) -> None:
        """Write ``directory/run.json`` whole or not at all."""
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / RECORD, self.model_dump(mode="json"))

    @classmethod
    def read(cls, directory: Path) -> Record:
        """The record of a run; raises ``BadInput`` where there is none or it cannot be read."""
        path = directory / RECORD
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise BadInput(f"{path}: no such run; expected a name under {directory.parent}") from None
        except ValidationError as error:
            raise BadInput(f"{path}: not a run record ({error.error_count()} errors)") from None
