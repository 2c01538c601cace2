"""Countdown answers: any solution is right, nothing else is, and no text does harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from params.base import Choice
from tasks.rewards.countdown import Config, judge
from tasks.rewards.judge import Judge

GOLD = "3*7+12"


@pytest.mark.parametrize(
    "answer",
    [
        "3*7+12", "12+7*3", "12 + (3 * 7)", "((12))+(7*3)", "7*3+12=33", "so:\n\n12+3*7 = 33\n", "3×7+12",
    ],
)  # fmt: skip
def test_every_solution_is_right(answer: str) -> None:
    assert judge(GOLD, answer, Config()).reward == 1.0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("3+7+12", None),
        ("(3+12)*7", None),
        ("33", "other numbers"),
        ("3*7+12+3-3", "other numbers"),
        ("3*12-3", "other numbers"),
        ("3*7*12/12+12", "other numbers"),
        ("7+12", "other numbers"),
        ("37-12", "other numbers"),
        ("", "other numbers"),
        ("3*7+12)", "unexpected ')'"),
        ("(3*7+12", "not closed"),
        ("3*7+12+", "ends too early"),
        ("-3*7+12", "unexpected '-'"),
        ("3**7+12", "unexpected '*'"),
        ("3 7 12", "unexpected '7'"),
        ("3*7+12.0", "unexpected '.'"),
        ("3*7+١٢", "unexpected '\\u0661'"),
        ("__import__('os')", "unexpected '_'"),
        ("(" * 41 + "3*7+12" + ")" * 41, "nested too deeply"),
        ("(" * 500 + "3*7+12" + ")" * 500, "more than 200 characters"),
        ("9" * 5000, "more than 200 characters"),
    ],
)
def test_anything_else_is_wrong_with_its_reason(answer: str, reason: str | None) -> None:
    verdict = judge(GOLD, answer, Config())
    assert verdict.reward == 0.0
    assert (verdict.error is None) if reason is None else reason in (verdict.error or "")


def test_arithmetic_is_exact_and_knows_no_division_by_zero() -> None:
    assert judge("8/(3-8/3)", "8/(3-(8/3))", Config()).reward == 1.0
    assert judge("8/(3-8/3)", "8/3-8/3", Config()).reward == 0.0
    assert judge("5*(4-3+1)", "5/(4-3-1)", Config()).error == "cannot read the answer: division by zero"
    assert judge("1/3", "1/3", Config()).reward == 1.0


@pytest.mark.parametrize("gold", ["Paris", "", "3*", "1/0"])
def test_a_wrong_right_answer_is_the_judges_failure(gold: str) -> None:
    verdict = judge(gold, "3", Config())
    assert verdict.reward is None
    assert verdict.error == f"cannot read the right answer '{gold}'"


@given(st.text(max_size=60) | st.text("0123456789+-*/^()=. \n", max_size=300), st.integers(1, 10**6))
def test_no_text_raises(answer: str, longest: int) -> None:
    assert judge(GOLD, answer, Config(max_answer_characters=longest)).reward in (0.0, 1.0)


@given(st.permutations([3, 7, 12]), st.tuples(*[st.sampled_from("+-*/")] * 3), st.sampled_from([3, 7, 12]))
def test_a_number_used_twice_is_wrong(order: list[int], signs: tuple[str, ...], extra: int) -> None:
    first, second, third = order
    answer = f"{first}{signs[0]}{second}{signs[1]}{third}{signs[2]}{extra}"
    assert judge(GOLD, answer, Config()).reward == 0.0


def test_it_judges_in_a_process_of_its_own() -> None:
    court = Judge(Choice(name="countdown"))
    verdicts = court.judge([(GOLD, "12+7*3"), (GOLD, "12+7"), (GOLD, "\ud800")])
    court.close()
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0, 0.0]
