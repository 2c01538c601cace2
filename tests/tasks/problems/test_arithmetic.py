"""Arithmetic problems: right, distinct, the same for the same seed."""

from __future__ import annotations

import math
import re
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from params.base import BadInput, Choice
from params.task import Task
from tasks.artefacts.tables import PROBLEMS
from tasks.problems import arithmetic
from tasks.problems.contract import find_source, normalised

ROOMY = ["chain_sum", "basic_arithmetic", "decimal_chain_sum", "gcd", "sums", "differences"]


def task(train: int = 30, held_out: int = 10) -> Task:
    return Task(problems=Choice(name="arithmetic"), train_count=train, held_out_count=held_out)


def questions(table: pa.Table) -> set[str]:
    return {normalised(question) for question in table["question"].to_pylist()}


choices = st.builds(
    arithmetic.Config,
    generators=st.lists(st.sampled_from(ROOMY), min_size=1, max_size=3, unique=True).map(tuple),
    level=st.integers(1, 5),
    held_out_level=st.none() | st.integers(1, 5),
)


@settings(max_examples=25, deadline=None)
@given(choices, st.integers(0, 2**31))
def test_sets_are_disjoint_distinct_and_follow_from_the_seed(config: arithmetic.Config, seed: int) -> None:
    train, held_out = arithmetic.read(config, task(), seed)
    assert (train.num_rows, held_out.num_rows) == (30, 10)
    assert train.schema.equals(PROBLEMS)
    assert held_out.schema.equals(PROBLEMS)
    assert len(questions(train) | questions(held_out)) == 40
    ids = train["problem_id"].to_pylist() + held_out["problem_id"].to_pylist()
    assert len(set(ids)) == 40
    assert set(held_out["level"].to_pylist()) == {config.held_out_level or config.level}
    again = arithmetic.read(config, task(), seed)
    assert again[0].equals(train)
    assert again[1].equals(held_out)


def test_another_seed_gives_other_problems() -> None:
    config = arithmetic.Config(level=4)
    assert questions(arithmetic.read(config, task(), 0)[0]) != questions(
        arithmetic.read(config, task(), 1)[0]
    )


@pytest.mark.parametrize("level", range(1, 6))
@pytest.mark.parametrize("name", sorted({*ROOMY, "products", "lcm"}))
def test_answers_are_right(name: str, level: int) -> None:
    rows = arithmetic.practice(arithmetic.Config(generators=(name,), level=level), 200, 7, set()).to_pylist()
    for row in rows:
        if name in ("gcd", "lcm"):
            right: Decimal | int = getattr(math, name)(*map(int, re.findall(r"\d+", row["question"])))
        else:
            right = eval(re.sub(r"\d+(\.\d+)?", r"Decimal('\g<0>')", row["question"]))
        assert Decimal(row["answer"]) == right, row


def test_level_one_is_one_digit_and_generators_share_evenly() -> None:
    config = arithmetic.Config(generators=("chain_sum", "gcd"))
    train, _ = arithmetic.read(config, task(20, 2), 0)
    assert (
        sorted(source.split(".")[1] for source in train["source"].to_pylist())
        == ["chain_sum"] * 10 + ["gcd"] * 10
    )
    sums = [question for question in train["question"].to_pylist() if "divisor" not in question]
    assert all(re.fullmatch(r"\d [+-] \d", question) for question in sums)


def test_practice_leaves_out_what_it_is_told_to() -> None:
    config = arithmetic.Config(generators=("sums",))
    _, held_out = arithmetic.read(config, task(60, 40), 0)
    practice = arithmetic.practice(config, 500, 0, questions(held_out))
    assert practice.num_rows == 500
    assert not questions(practice) & questions(held_out)


def test_too_many_problems_are_refused_in_one_line() -> None:
    with pytest.raises(BadInput) as caught:
        arithmetic.read(arithmetic.Config(), task(512, 128), 0)
    message = str(caught.value)
    assert "task.problems: level 1 of chain_sum has only 200 distinct problems" in message
    assert "expected 440 more: lower task.train_count" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"generators": ["chain_sums"]}, "no generator 'chain_sums'; did you mean 'chain_sum'?"),
        ({"generators": ["gcd", "gcd"]}, "named twice"),
        ({"level": 6}, "less than or equal to 5, got 6"),
        ({"levl": 1}, "task.problems.levl: unknown key; did you mean 'level'?"),
    ],
)
def test_bad_options(options: dict[str, object], expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        Choice(name="arithmetic", **options).resolve(arithmetic.Config, "task.problems")
    assert expected in str(caught.value)


def test_a_source_is_found_by_its_name() -> None:
    assert find_source("arithmetic", "task.problems.name").read is arithmetic.read
    with pytest.raises(
        BadInput, match=r"task\.problems\.name: no 'arithmatic' .*; did you mean 'arithmetic'\?"
    ):
        find_source("arithmatic", "task.problems.name")
