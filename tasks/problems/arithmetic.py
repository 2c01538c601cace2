"""Arithmetic problems, as many as wanted, from the seeded generators of ``reasoning-gym`` at five levels.

A question is a noun phrase (``3 + 4``, ``the greatest common divisor of 12 and 18``), so that one
instruction, ``What is {question}?``, suits them all.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field, field_validator

import params.base
from params.base import BadInput, nearest
from params.task import Task
from tasks.core import seeds
from tasks.problems import worked
from tasks.problems.contract import normalised
from tasks.problems.rows import digest, distinct, shares, table

Level = Annotated[int, Field(ge=1, le=5)]

_PLAIN = {"allow_parentheses": False, "allow_negation": False}
_SUMS, _PRODUCTS = (
    [{"max_terms": terms, "max_digits": digits} for terms, digits in levels]
    for levels in (
        ((2, 1), (2, 2), (3, 2), (4, 3), (6, 4)),
        ((2, 1), (2, 2), (3, 2), (3, 3), (4, 3)),
    )
)
_GENERATORS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "sums": ("basic_arithmetic", [{**terms, **_PLAIN, "operators": ["+"]} for terms in _SUMS]),
    "differences": ("basic_arithmetic", [{**terms, **_PLAIN, "operators": ["-"]} for terms in _SUMS]),
    "products": ("products", _PRODUCTS),
    "chain_sum": ("chain_sum", _SUMS),
    # Without division: the generator rounds its own answers down in some places and not in others.
    "basic_arithmetic": (
        "basic_arithmetic",
        [
            {
                **terms,
                "operators": ["+", "-", "*"],
                "allow_parentheses": level > 2,
                "allow_negation": level > 3,
            }
            for level, terms in enumerate(_SUMS, start=1)
        ],
    ),
    "decimal_chain_sum": (
        "decimal_chain_sum",
        [{**terms, "max_decimal_places": 1 + level // 3} for level, terms in enumerate(_SUMS, start=1)],
    ),
    "gcd": ("gcd", [{"max_value": 10 * 3**level} for level in range(1, 6)]),
    "lcm": ("lcm", [{"max_value": 5 * 2**level} for level in range(1, 6)]),
}
"""Per generator: which of ``reasoning-gym``'s it is, and its options at levels 1 to 5.

Minima keep their defaults: two terms, one digit.
"""


class Config(params.base.Config):
    """Which problems to make."""

    generators: Annotated[tuple[str, ...], Field(min_length=1)] = ("chain_sum",)
    """Generators, each of which makes an equal share of the problems."""
    level: Level = 1
    """How hard: 1 is two terms of one digit, 5 is several terms of up to four digits."""
    held_out_level: Level | None = None
    """Level of the held-out problems; null: the same."""

    @field_validator("generators")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in _GENERATORS:
                raise ValueError(
                    f"task.problems.generators: no generator '{name}'{nearest(name, _GENERATORS)}"
                )
        if len(set(names)) < len(names):
            raise ValueError("task.problems.generators: a generator is named twice")
        return names


def read(config: Config, task: Task, seed: int) -> tuple[pa.Table, pa.Table]:
    """Training and held-out problems. Raises ``BadInput`` where a level has too few distinct ones."""
    held_out_level = config.held_out_level or config.level
    key = seeds.seed(seed, "problems", 0)
    held_out = _share(config.generators, held_out_level, task.held_out_count, key, set())
    taken = {normalised(row["question"]) for row in held_out}
    train = _share(config.generators, config.level, task.train_count, key + 1, taken)
    return table(train), table(held_out)


def practice(config: Config, count: int, seed: int, without: set[str]) -> pa.Table:
    """``count`` problems of the training level, repeats among them, none normalised to one of ``without``."""
    rows: list[dict[str, Any]] = []
    streams = [
        _stream(name, config.level, seeds.seed(seed, "practice", 0, name)) for name in config.generators
    ]
    while len(rows) < count:
        row = next(streams[len(rows) % len(streams)])
        if normalised(row["question"]) not in without:
            rows.append(row)
    return table(rows)


def _share(
    names: tuple[str, ...], level: int, count: int, seed: int, taken: set[str]
) -> list[dict[str, Any]]:
    """``count`` distinct problems, split evenly over the generators and shuffled; ``taken`` grows by them."""
    rows: list[dict[str, Any]] = []
    for name, wanted in zip(names, shares(count, len(names)), strict=True):
        stream = _stream(name, level, seeds.seed(seed, "problems", 0, name, level))
        found = distinct(stream, wanted, taken)
        if len(found) < wanted:
            raise BadInput(
                f"task.problems: level {level} of {name} has only {len(taken)} distinct problems; expected "
                f"{wanted - len(found)} more: lower task.train_count or held_out_count, or raise it"
            )
        rows += found
    random.Random(seed).shuffle(rows)
    return rows


def _stream(name: str, level: int, seed: int) -> Iterator[dict[str, Any]]:
    """Problems of one generator, without end."""
    dataset, levels = _GENERATORS[name]
    import reasoning_gym  # a second, for which a run that finds its problems in the cache need not wait

    problems = reasoning_gym.create_dataset(dataset, seed=seed, **levels[level - 1])
    for index in itertools.count():
        item = problems[index]
        question = _question(name, item["metadata"])
        key = f"{name}\n{normalised(question)}"
        yield {
            "problem_id": f"{name}-{level}-{digest(key)}",
            "question": question,
            "answer": item["answer"],
            "level": level,
            "source": f"reasoning_gym.{dataset}",
            "demonstrations": [_demonstration(name, item["metadata"], item["answer"])],
        }


def _demonstration(name: str, facts: dict[str, Any], answer: str) -> str:
    if "expression" in facts:
        return worked.worked(str(facts["expression"]), answer)
    return (worked.common_divisor if name == "gcd" else worked.common_multiple)(facts["numbers"])


def _question(name: str, facts: dict[str, Any]) -> str:
    if "expression" in facts:
        return str(facts["expression"])
    words = {"gcd": "the greatest common divisor", "lcm": "the least common multiple"}
    return f"{words[name]} of {' and '.join(str(number) for number in facts['numbers'])}"
