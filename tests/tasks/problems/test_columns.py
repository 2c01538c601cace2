"""Column sums: right to the last line, distinct, the same for the same seed, plausible when spoilt."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from params.base import BadInput, Choice
from params.load import compose
from params.task import Task
from tasks.artefacts.tables import PROBLEMS
from tasks.prepare import warm_start
from tasks.problems import columns
from tasks.problems.contract import normalised
from tasks.rewards import math


def task(train: int = 20, held_out: int = 9) -> Task:
    return Task(problems=Choice(name="columns"), train_count=train, held_out_count=held_out)


def questions(table: pa.Table) -> list[str]:
    return [normalised(question) for question in table["question"].to_pylist()]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**31))
def test_sets_are_disjoint_distinct_and_follow_from_the_seed(digits: int, seed: int) -> None:
    config = columns.Config(digits=digits, held_out_digits=(digits, digits + 1, digits + 2))
    train, held_out = columns.read(config, task(), seed)
    assert train.schema.equals(PROBLEMS)
    assert len({*questions(train), *questions(held_out)}) == 29
    assert set(train["level"].to_pylist()) == {digits}
    levels = held_out["level"].to_pylist()
    assert [levels.count(digits + more) for more in range(3)] == [3, 3, 3]
    again = columns.read(config, task(), seed)
    assert again[0].equals(train)
    assert again[1].equals(held_out)
    without = set(questions(held_out))
    practised = columns.practice(config, 30, seed, without)
    assert practised.num_rows == 30
    assert not without & set(questions(practised))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6).flatmap(lambda n: st.tuples(*[st.integers(10 ** (n - 1), 10**n - 1)] * 2)))
def test_every_line_is_right_and_the_last_is_the_sum(pair: tuple[int, int]) -> None:
    lines = columns.worked(str(pair[0]), str(pair[1])).splitlines()
    assert lines[-1] == f"={sum(pair)}"
    for line in lines[:-1]:
        left, _, right = line.partition("=")
        assert sum(map(int, left.split("+"))) == int(right)
    assert len(lines) == len(str(pair[0])) + 1


def test_the_judge_reads_the_last_line() -> None:
    answer = columns.worked("47", "85")
    assert answer == "7+5=12\n4+8+1=13\n=132"
    assert math.judge("132", answer, math.Config()).reward == 1.0
    assert math.judge("133", answer, math.Config()).reward == 0.0


def test_spoilt_answers_are_often_right_and_wrong_by_a_slip() -> None:
    rng = random.Random(0)
    right = columns.worked("478", "856")
    spoilt = [columns.spoil(right, rng) for _ in range(400)]
    wrong = [answer for answer in spoilt if answer != right]
    assert 0.04 < len(wrong) / 400 < 0.2
    assert all(len(answer.splitlines()) == 4 for answer in wrong)
    assert columns.spoil(columns.worked("9", "9"), rng).startswith("9+9=")


def test_too_few_sums_are_refused() -> None:
    with pytest.raises(BadInput, match=r"1 digits have only 72 distinct sums left; expected 100"):
        columns.read(columns.Config(digits=1, held_out_digits=(1,)), task(train=100), 0)


def test_nano_learns_from_worked_answers() -> None:
    params = compose("nano", "columns", "grpo", ["model.warm_start_steps=2"])
    (batch, *_) = warm_start._batches(params, 2)
    words = warm_start.nano.tokenizer()
    assert all(words.decode(response).count("\n") >= 2 for _, response in batch)
