"""Countdown: make the target from the given numbers, each used exactly once, with ``+ - * /``.

A question is ``3 7 12 > 33``; its right answer is one solution of many, ``3*7+12``, and the judge
``countdown`` takes any other. A problem is made from a random expression, so that every one can be solved.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from typing import Annotated, Any, NoReturn

import pyarrow as pa
from pydantic import Field, PositiveInt, model_validator

import params.base
from params.base import BadInput
from params.task import Task
from tasks.core import seeds
from tasks.problems.contract import normalised
from tasks.problems.rows import digest, distinct, table
from tasks.problems.worked import operations
from tasks.rewards.countdown import Unreadable, numbers, tokens, value

_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2}
_NUMBER = 3
Written = tuple[str, int]
"""An expression, and how tightly its outermost operator binds."""


class Config(params.base.Config):
    """Which problems to make."""

    numbers: Annotated[int, Field(ge=2, le=6)] = 3
    """Numbers given."""
    smallest: PositiveInt = 1
    """Smallest number given."""
    largest: Annotated[int, Field(ge=1, le=999)] = 12
    """Largest number given."""
    target_smallest: PositiveInt = 10
    """Smallest target."""
    target_largest: PositiveInt = 50
    """Largest target."""

    @model_validator(mode="after")
    def _ordered(self) -> Config:
        if self.smallest > self.largest:
            raise ValueError("task.problems.smallest must not exceed task.problems.largest")
        if self.target_smallest > self.target_largest:
            raise ValueError("task.problems.target_smallest must not exceed task.problems.target_largest")
        return self


def read(config: Config, task: Task, seed: int) -> tuple[pa.Table, pa.Table]:
    """Training and held-out problems. Raises ``BadInput`` where there are too few distinct ones."""
    wanted = task.train_count + task.held_out_count
    rows = distinct(_stream(config, seeds.seed(seed, "problems", 0, "countdown")), wanted, set())
    if len(rows) < wanted:
        _too_few(len(rows), wanted)
    return table(rows[task.held_out_count :]), table(rows[: task.held_out_count])


def practice(config: Config, count: int, seed: int, without: set[str]) -> pa.Table:
    """``count`` problems, repeats with other solutions among them, none normalised to one of ``without``."""
    stream = _stream(config, seeds.seed(seed, "practice", 0, "countdown"))
    return table(islice((row for row in stream if normalised(row["question"]) not in without), count))


def spoil(answer: str, rng: random.Random) -> str:
    """Another expression of the same numbers, with another value."""
    found = tokens(answer)
    target, given = value(found), numbers(found)
    while True:
        wrong = _expression(given, rng)
        if _value_of(wrong) not in (None, target):
            return wrong


def _stream(config: Config, seed: int) -> Iterator[dict[str, Any]]:
    """Problems without end. Raises ``BadInput`` where random expressions never meet the targets."""
    rng = random.Random(seed)
    missed = 0
    while missed < 10_000:
        drawn = sorted(rng.randint(config.smallest, config.largest) for _ in range(config.numbers))
        solution = _expression([str(number) for number in drawn], rng)
        target = _value_of(solution)
        reached = target is not None and config.target_smallest <= target <= config.target_largest
        if target is None or not reached or target.denominator > 1:
            missed += 1
            continue
        missed = 0
        question = f"{' '.join(map(str, drawn))} > {target}"
        yield {
            "problem_id": f"countdown-{config.numbers}-{digest(question)}",
            "question": question,
            "answer": solution,
            "level": config.numbers,
            "source": "countdown",
            "demonstrations": [_demonstration(solution), solution],
        }
    _too_few(0, 1)


def _expression(given: list[str], rng: random.Random) -> str:
    """The numbers in any order, under any operators, in any grouping; no needless parentheses."""
    parts: list[Written] = [(number, _NUMBER) for number in given]
    rng.shuffle(parts)
    while len(parts) > 1:
        place = rng.randrange(len(parts) - 1)
        parts[place : place + 2] = [_joined(parts[place], rng.choice("+-*/"), parts[place + 1])]
    return parts[0][0]


def _joined(left: Written, operator: str, right: Written) -> Written:
    binds = _BINDS[operator]
    first = left[0] if left[1] >= binds else f"({left[0]})"
    loose = right[1] < binds or (right[1] == binds and operator in "-/")
    # a*(b/c) and (a*b)/c have the same value in exact arithmetic, as are a+(b-c) and (a+b)-c.
    return f"{first}{operator}{f'({right[0]})' if loose else right[0]}", binds


def _demonstration(solution: str) -> str:
    """Its operations, a line each, then the expression, which is what the judge reads."""
    steps = (f"{one.left}{one.sign}{one.right}={one.value}" for one in operations(solution))
    return "\n".join([*steps, solution])


def _value_of(expression: str) -> Fraction | None:
    """Its value; None where it divides by zero."""
    try:
        return value(tokens(expression))
    except Unreadable:
        return None


def _too_few(found: int, wanted: int) -> NoReturn:
    raise BadInput(
        f"task.problems: these numbers and targets have only {found} distinct problems; expected {wanted}: "
        "lower task.train_count or held_out_count, or widen task.problems.largest or target_largest"
    )
