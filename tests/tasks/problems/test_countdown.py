"""Countdown problems: solvable, distinct, the same for the same seed."""

from __future__ import annotations

import random
import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from params.base import BadInput, Choice
from params.load import compose
from params.task import Task
from tasks.artefacts.tables import PROBLEMS
from tasks.prepare import warm_start
from tasks.problems import countdown
from tasks.problems.contract import normalised
from tasks.rewards import countdown as judge

configs = st.builds(
    countdown.Config,
    numbers=st.integers(3, 5),
    largest=st.integers(8, 30),
    target_largest=st.integers(40, 100),
)


def task(train: int = 30, held_out: int = 10) -> Task:
    return Task(problems=Choice(name="countdown"), train_count=train, held_out_count=held_out)


def questions(table: pa.Table) -> set[str]:
    return {normalised(question) for question in table["question"].to_pylist()}


def reward(gold: str, answer: str) -> float | None:
    return judge.judge(gold, answer, judge.Config()).reward


@settings(max_examples=25, deadline=None)
@given(configs, st.integers(0, 2**31))
def test_sets_are_disjoint_distinct_and_follow_from_the_seed(config: countdown.Config, seed: int) -> None:
    train, held_out = countdown.read(config, task(), seed)
    assert (train.num_rows, held_out.num_rows) == (30, 10)
    assert train.schema.equals(PROBLEMS)
    assert held_out.schema.equals(PROBLEMS)
    assert len(questions(train) | questions(held_out)) == 40
    assert len({*train["problem_id"].to_pylist(), *held_out["problem_id"].to_pylist()}) == 40
    again = countdown.read(config, task(), seed)
    assert again[0].equals(train)
    assert again[1].equals(held_out)


@settings(max_examples=25, deadline=None)
@given(configs, st.integers(0, 2**31))
def test_every_problem_has_its_solution(config: countdown.Config, seed: int) -> None:
    for row in countdown.practice(config, 20, seed, set()).to_pylist():
        given_numbers, _, target = row["question"].partition(" > ")
        assert config.target_smallest <= int(target) <= config.target_largest
        assert sorted(re.findall(r"\d+", row["answer"])) == sorted(given_numbers.split())
        assert eval(row["answer"]) == pytest.approx(int(target))
        assert reward(row["answer"], row["answer"]) == 1.0


@settings(max_examples=25, deadline=None)
@given(configs, st.integers(0, 2**31))
def test_a_spoilt_solution_uses_the_numbers_and_is_wrong(config: countdown.Config, seed: int) -> None:
    rng = random.Random(seed)
    for row in countdown.practice(config, 20, seed, set()).to_pylist():
        wrong = judge.judge(row["answer"], countdown.spoil(row["answer"], rng), judge.Config())
        assert (wrong.reward, wrong.error) == (0.0, None)


def test_practice_repeats_questions_with_other_solutions_and_leaves_out_what_it_is_told_to() -> None:
    config = countdown.Config(largest=5)
    _, held_out = countdown.read(config, task(60, 40), 0)
    rows = countdown.practice(config, 2000, 0, questions(held_out))
    assert rows.num_rows == 2000
    assert not questions(rows) & questions(held_out)
    solutions = {(row["question"], row["answer"]) for row in rows.to_pylist()}
    assert len(solutions) > 2 * len(questions(rows))


def test_the_warm_start_learns_right_and_wrong_expressions() -> None:
    params = compose("nano", "countdown", "grpo", ["model.warm_start_steps=4"])
    row = {"question": "3 7 12 > 33", "answer": "3*7+12"}
    end = "<eos>"
    words = warm_start.nano.tokenizer()
    for spoilt, right in ((0.0, 1.0), (1.0, 0.0)):
        texts = [words.decode(response) for _, response in warm_start._examples(params, [row] * 20, spoilt)]
        assert {reward(row["answer"], text.removesuffix(end)) for text in texts} == {right}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"largest": 2, "target_smallest": 3, "target_largest": 4}, "distinct problems; expected 640"),
        ({"largest": 2, "target_smallest": 90, "target_largest": 99}, "only 0 distinct problems"),
    ],
)
def test_too_many_problems_are_refused_in_one_line(options: dict[str, int], expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        countdown.read(countdown.Config(**options), task(512, 128), 0)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"numbers": 9}, "less than or equal to 6, got 9"),
        ({"smallest": 13}, "smallest must not exceed"),
        ({"target_smallest": 51}, "target_smallest must not exceed"),
        ({"largst": 9}, "task.problems.largst: unknown key; did you mean 'largest'?"),
    ],
)
def test_bad_options(options: dict[str, object], expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        Choice(name="countdown", **options).resolve(countdown.Config, "task.problems")
    assert expected in str(caught.value)
