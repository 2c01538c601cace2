"""Numbers to be guessed: a question is a range, ``12-19``, the answer a number of it."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
from pydantic import PositiveInt, model_validator

import params.base
from params.base import BadInput
from params.task import Task
from tasks.core import seeds
from tasks.problems.contract import normalised
from tasks.problems.rows import table


class Config(params.base.Config):
    """Which numbers to guess."""

    largest: PositiveInt = 99
    """Of all numbers."""
    width: PositiveInt = 8
    """Numbers in a range."""

    @model_validator(mode="after")
    def _has_room(self) -> Config:
        if self.width > self.largest:
            raise ValueError("task.problems.width must not exceed task.problems.largest")
        return self


def read(config: Config, task: Task, seed: int) -> tuple[pa.Table, pa.Table]:
    """Training and held-out problems, no range in both. Raises ``BadInput`` where there are too few."""
    rng = random.Random(seeds.seed(seed, "problems", 0, "guess"))
    starts = list(range(1, config.largest - config.width + 2))
    wanted = task.train_count + task.held_out_count
    if wanted > len(starts):
        raise BadInput(
            f"task.problems: {len(starts)} ranges of {config.width} numbers up to {config.largest}; expected "
            f"{wanted}, task.train_count and held_out_count: raise problems.largest"
        )
    rng.shuffle(starts)
    rows = [_row(low, low + config.width - 1, rng) for low in starts[:wanted]]
    return table(rows[: task.train_count]), table(rows[task.train_count :])


def practice(config: Config, count: int, seed: int, without: set[str]) -> pa.Table:
    """``count`` ranges, narrower ones among them as a game comes to, none of those ``without``."""
    rng = random.Random(seeds.seed(seed, "practice", 0, "guess"))
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        low, width = rng.randint(1, config.largest), rng.randint(1, config.width)
        high = min(config.largest, low + width - 1)
        row = _row(low, high, rng)
        if normalised(row["question"]) not in without:
            rows.append(row)
    return table(rows)


def _row(low: int, high: int, rng: random.Random) -> dict[str, Any]:
    return {
        "problem_id": f"guess-{low}-{high}",
        "question": f"{low}-{high}",
        "answer": str(rng.randint(low, high)),
        "level": 1,
        "source": "guess",
    }
