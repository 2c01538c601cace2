"""A second judge over a run's answers, of which nothing is learned."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from params.base import Config
from params.reward import Rewards, read_rewards


class Audit(Config):
    """Which judge, and how much of what it says is kept."""

    reward: Rewards
    """As ``task.reward``: ``math``, ``my_module:function``, ``{name: ...}``, or several."""
    examples: Annotated[int, Field(ge=0)] = 8
    """Answers of each round, at most, on which the two disagree, kept for the report."""

    @field_validator("reward", mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        return read_rewards(given)
