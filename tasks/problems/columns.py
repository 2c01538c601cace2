"""Sums worked out column by column, one line per column: right answers in steps, for methods that use steps.

A question is ``47+85`` and its right answer 132; what ``nano`` is warm-started on leads there digit by digit,

    7+5=12
    4+8+1=13
    =132

with the carry as a third summand. A level is the count of digits of both summands.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

import params.base
from params.base import BadInput
from params.task import Task
from tasks.core import seeds
from tasks.problems.contract import normalised
from tasks.problems.rows import digest, shares, table

__all__ = ["worked"]

SLIP = 0.04
"""Chance that a line of a spoilt answer goes wrong, and all that follows from it."""

Digits = Annotated[int, Field(ge=1, le=12)]


class Config(params.base.Config):
    """How long the summands are."""

    digits: Digits = 2
    """Of both summands of a training problem."""
    held_out_digits: Annotated[tuple[Digits, ...], Field(min_length=1)] = (2, 3, 5)
    """Of held-out problems, each of which gets an equal share; practice has all of these and ``digits``."""


def read(config: Config, task: Task, seed: int) -> tuple[pa.Table, pa.Table]:
    """Training and held-out problems. Raises ``BadInput`` where there are too few distinct ones."""
    lengths = config.held_out_digits
    taken: set[str] = set()
    held_out: list[dict[str, Any]] = []
    for digits, wanted in zip(lengths, shares(task.held_out_count, len(lengths)), strict=True):
        held_out += _distinct(digits, wanted, seeds.seed(seed, "problems", 0, "held_out", digits), taken)
    train = _distinct(config.digits, task.train_count, seeds.seed(seed, "problems", 0, "train"), taken)
    return table(train), table(held_out)


def practice(config: Config, count: int, seed: int, without: set[str]) -> pa.Table:
    """``count`` problems with worked answers, of each length in turn, none with a question in ``without``."""
    lengths = sorted({config.digits, *config.held_out_digits})
    streams = [_stream(digits, seeds.seed(seed, "practice", 0, digits)) for digits in lengths]
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        first, second = next(streams[len(rows) % len(streams)])
        row = _row(first, second)
        if normalised(row["question"]) not in without:
            rows.append({**row, "answer": row["demonstrations"][0]})
    return table(rows)


def spoil(answer: str, rng: random.Random) -> str:
    """The same sum, in which each line may go wrong by one: most short answers stay right."""
    lines = [line.partition("=")[0].split("+") for line in answer.splitlines()[:-1]]
    first, second = ("".join(line[place] for line in reversed(lines)) for place in (0, 1))
    return worked(first, second, lambda: rng.choice((-1, 1)) if rng.random() < SLIP else 0)


def worked(first: str, second: str, slip: Callable[[], int] = lambda: 0) -> str:
    """The answer to ``first`` + ``second``, decimal numbers of one length; ``slip()`` is added to each sum of
    digits where that stays one."""
    lines, carry, digits = [], 0, ""
    for one, two in zip(reversed(first), reversed(second), strict=True):
        total = int(one) + int(two) + carry + slip()
        total = min(max(total, 0), 19)
        lines.append(f"{one}+{two}{'+1' if carry else ''}={total}")
        carry, digits = total // 10, f"{total % 10}{digits}"
    return "\n".join([*lines, f"={'1' if carry else ''}{digits}"])


def _stream(digits: int, seed: int) -> Iterator[tuple[str, str]]:
    """Pairs of summands without leading zeros, without end."""
    rng = random.Random(seed)
    least = 10 ** (digits - 1)
    while True:
        yield str(rng.randrange(least, 10 * least)), str(rng.randrange(least, 10 * least))


def _distinct(digits: int, wanted: int, seed: int, taken: set[str]) -> list[dict[str, Any]]:
    """``wanted`` problems that are not ``taken``, which grows by them."""
    most = (9 * 10 ** (digits - 1)) ** 2
    free = most - sum(question.index("+") == digits for question in taken)
    if free < wanted:
        raise BadInput(
            f"task.problems: {digits} digits have only {free} distinct sums left; expected {wanted}: lower "
            "task.train_count or held_out_count, or raise digits"
        )
    rows: list[dict[str, Any]] = []
    for first, second in _stream(digits, seed):
        row = _row(first, second)
        if len(rows) == wanted:
            break
        if row["question"] not in taken:
            taken.add(row["question"])
            rows.append(row)
    return rows


def _row(first: str, second: str) -> dict[str, Any]:
    question = f"{first}+{second}"
    return {
        "problem_id": f"columns-{len(first)}-{digest(question)}",
        "question": question,
        "answer": str(int(first) + int(second)),
        "level": len(first),
        "source": "columns",
        "demonstrations": [worked(first, second)],
    }
