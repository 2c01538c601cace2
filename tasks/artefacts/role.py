"""What a stage is to those who count, draw and follow its artefacts; its row of the stage table says it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["prepare", "sample", "judge", "learn", "measure"]
Resource = Literal["engine", "trainer", "judge"]
"""What a stage works with while it is made; one stage at a time has it."""
RESOURCES: dict[Kind, Resource] = {
    "prepare": "trainer",
    "sample": "engine",
    "judge": "judge",
    "learn": "trainer",
    "measure": "engine",
}
TimeOf = Literal["sampling", "learning", "evaluation"]


class Role(BaseModel):
    """Travels in each manifest and each step of a run's record, so that no reader keeps a list of stages."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Kind
    """``prepare``: before the rounds. ``sample``: text from a policy. ``judge``: verdicts. ``learn``: what
    comes of rollouts. ``measure``: a policy on held-out problems."""
    label: str
    """What its artefact is called in a sentence: ``rollouts``."""
    time_of: TimeOf | None = None
    """What its seconds count as in a run's cost; None: as nothing, since every run begins with it."""
    makes_policy: bool = False
    """Its artefact is the next policy."""

    @property
    def resource(self) -> Resource:
        """What it works with."""
        return RESOURCES[self.kind]
