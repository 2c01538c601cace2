"""Further tasks of a run: a mixture, in which each has an exact share of every round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt

from params.curriculum import Curriculum
from params.layers import laid_on_presets
from params.speed import Elsewhere
from params.task import Task

ROUNDING = 1e-9
PRESETS = Path(__file__).parent / "tasks"
MAIN = "main"
"""What ``task`` is called in figures beside the others."""


class MixedTask(Task):
    """One of several tasks that a run trains on."""

    weight: Annotated[PositiveFloat, Elsewhere] = 1.0
    """Its share of a round's problems is this over the sum of all weights, ``task_weight`` included."""
    max_response_tokens: PositiveInt | None = None
    """Longest response, in tokens, at most the rollout's; null: the rollout's."""
    method: Annotated[dict[str, Any], Elsewhere] = Field(default_factory=dict)
    """What is other for it than in the run's ``method``: ``{objective: {clip_high: 0.4}}``."""
    curriculum: Annotated[Curriculum | None, Elsewhere] = None
    """Which of its problems are asked; null: all, in an order drawn anew each epoch."""


def with_task_presets(given: Any) -> Any:
    """Tasks as a person names them, each laid on the preset of its name. Raises ``ValueError``."""
    return laid_on_presets(given, PRESETS, "tasks", _task_of)


def _task_of(preset: dict[str, Any]) -> dict[str, Any]:
    """A task's preset as a task of a mixture: with the response length that it asks of the rollout."""
    longest = preset.get("rollout", {}).get("max_response_tokens")
    limit = {} if longest is None else {"max_response_tokens": longest}
    return {**preset["task"], **limit}


def problems_input(name: str) -> str:
    """What the problems of a further task are called among a stage's inputs."""
    return f"problems_{name}"


def estimate_input(name: str) -> str:
    """What the base model's pass rates of a further task are called among a rollout's inputs."""
    return f"estimate_{name}"


def quotas(weights: Sequence[float], size: int, round: int) -> list[int]:
    """How many of a round's ``size`` problems each task has; rounds count from 1.

    The problems of all rounds are given out one by one, each to that task of those below their exact share
    that would be above it soonest (Balinski and Young's quota method, 1975): after any round no task is one
    problem or more away from its share, and one whose share is a whole number has it in each round.
    """
    parts = [weight / sum(weights) for weight in weights]
    given = [0] * len(parts)
    before: list[int] = []
    for number in range(1, round * size + 1):
        if number == (round - 1) * size + 1:
            before = list(given)
        below = [place for place, part in enumerate(parts) if given[place] < number * part - ROUNDING]
        given[min(below, key=lambda place: (given[place] + 1) / parts[place])] += 1
    return [after - earlier for after, earlier in zip(given, before, strict=True)]


def largest_quota(weights: Sequence[float], size: int, place: int) -> int:
    """The most problems that the task at ``place`` has in any round."""
    share = size * weights[place] / sum(weights)
    whole = abs(share - round(share)) < ROUNDING
    return round(share) if whole else min(size, math.ceil(share) + 1)
