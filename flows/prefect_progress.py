"""What Prefect's server shows of a run that goes on: how far it is, and what its guards say."""

from __future__ import annotations

from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.events import emit_event

from flows.execution.runner import Runner

EVENT = "ostinato.guard"
"""An event for each thing that a guard says, of the resource ``ostinato.run.NAME``: for automations."""


def artifact_key(name: str) -> str:
    """What may stand in the key of an artifact, of a run's name."""
    return "".join(c if c.isalnum() else "-" for c in name)


class Progress:
    """A progress artifact of the flow run, made when there is first something to show."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._artifact: UUID | None = None
        self._said = 0

    def round_ended(self, round: int) -> None:
        """So many rounds are done."""
        share = 100.0 * round / max(1, self._runner.params.rounds)
        if self._artifact is None:
            key, about = f"{artifact_key(self._runner.name)}-progress", f"Rounds of {self._runner.name}"
            self._artifact = cast(UUID, create_progress_artifact(share, key=key, description=about))
        else:
            update_progress_artifact(self._artifact, share)

    def guards(self) -> None:
        """Emit what guards have said since the last time."""
        name, warnings = self._runner.name, self._runner.record.warnings
        for said in warnings[self._said :]:
            resource = {"prefect.resource.id": f"ostinato.run.{name}", "prefect.resource.name": name}
            emit_event(EVENT, resource=resource, payload={"said": said})
        self._said = len(warnings)
