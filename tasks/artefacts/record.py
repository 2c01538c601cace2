"""What a run did, on disk, for the report, ``status`` and ``show``.

``runs/NAME/run.json`` says what the run is and whether it is finished; ``steps.jsonl`` has a line for each
stage that is done. A line is appended, so that a step costs the same in the first round and the thousandth.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from params.base import BadInput, validate
from params.schema import Params
from tasks.artefacts.artefact import replace_file, write_json
from tasks.artefacts.role import Role

RECORD = "run.json"
STEPS = "steps.jsonl"


class Step(BaseModel):
    """One stage of a run, done."""

    model_config = ConfigDict(extra="forbid")
    place: str
    """Where it lies in the run's directory: ``model``, ``problems``, ``round-03/update``."""
    stage: str
    role: Role
    round: int
    fingerprint: str
    digest: str
    outcome: Literal["made", "cached"]
    seconds: float
    """Wall time that it took in this run, making or checking."""
    elapsed: float = 0.0
    """Wall time of the run when it was done, Prefect's start included."""
    waited: float = 0.0
    """Seconds in which it was ready to begin and did not, where the run's stages overlap."""
    waited_for: str | None = None
    """The place that had what it works with meanwhile."""


class Stop(BaseModel):
    """How a process that was making a run ended before the run was finished."""

    model_config = ConfigDict(extra="forbid")
    place: str
    """The stage that it was at."""
    said: str
    """One line."""
    when: str
    """UTC, ISO 8601."""


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
    warnings: list[str] = []
    """What its guards said, in the order of the stages."""
    stopped: Stop | None = None
    """Why the last process ended too early; None where it did not, or was killed and could not say."""
    steps: list[Step] = []

    def parameters(self) -> Params:
        """What ``params`` says; raises ``BadInput`` that names the run where another version wrote them."""
        return validate(Params, self.params, f"{self.name}: run.json: parameters of an older version")

    def policies(self) -> list[Step]:
        """The steps that made the policy of a round, by round."""
        made = (step for step in self.steps if step.role.makes_policy and step.round)
        return sorted(made, key=lambda step: step.round)

    def write(self, directory: Path) -> None:
        """Write both files, each whole or not at all."""
        directory.mkdir(parents=True, exist_ok=True)
        replace_file(directory / STEPS, "".join(_line(step) for step in self.steps))
        self.write_head(directory)

    def write_head(self, directory: Path) -> None:
        """Write all but the steps."""
        write_json(directory / RECORD, self.model_dump(mode="json", exclude={"steps"}))

    def append(self, directory: Path, step: Step) -> None:
        """Add a step, in memory and on disk; ``write`` comes before the first."""
        self.steps.append(step)
        with (directory / STEPS).open("a") as file:
            file.write(_line(step))

    @classmethod
    def read(cls, directory: Path) -> Record:
        """The record of a run, of each place its last step; raises ``BadInput`` where there is none or it
        cannot be read."""
        path = directory / RECORD
        try:
            record = cls.model_validate_json(path.read_bytes())
            path = directory / STEPS
            record.steps = _steps(path)
        except FileNotFoundError:
            raise BadInput(f"{path}: no such run; expected a name under {directory.parent}") from None
        except ValidationError as error:
            raise BadInput(f"{path}: not a run record ({error.error_count()} errors)") from None
        if not record.finished and record.steps:
            record.seconds = record.steps[-1].elapsed
        return record


def _steps(path: Path) -> list[Step]:
    """The steps of a file whose last line may be torn: a run that was killed wrote it."""
    *lines, _ = path.read_bytes().split(b"\n")
    found: dict[str, Step] = {}
    for line in lines:
        step = Step.model_validate_json(line)
        found.pop(step.place, None)
        found[step.place] = step
    return list(found.values())


def _line(step: Step) -> str:
    return json.dumps(step.model_dump(mode="json"), sort_keys=True) + "\n"
