"""Mathematical answers: equal in any form, hostile in any way."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from params.base import Choice
from tasks.rewards.judge import Judge
from tasks.rewards.math import Config, judge


def reward(gold: str, answer: str) -> float | None:
    return judge(gold, answer, Config()).reward


numbers = st.integers(-(10**9), 10**9)


@settings(deadline=None)
@given(numbers, st.integers(-20, 20))
def test_an_integer_is_right_in_any_form_and_only_if_equal(number: int, off: int) -> None:
    given_number = number + off
    forms = [
        f"{given_number}", f"{given_number}.", f"${given_number}$", f"\\boxed{{{given_number}}}",
        f"The answer is {given_number}.", f"**{given_number}**", f"{given_number}.0", f"x = {given_number}",
    ]  # fmt: skip
    assert {reward(str(number), form) for form in forms} == {float(off == 0)}


@settings(deadline=None)
@given(st.integers(-99, 99), st.integers(2, 99))
def test_a_fraction_is_right_in_any_form(top: int, bottom: int) -> None:
    value = Fraction(top, bottom)
    gold = f"\\frac{{{top}}}{{{bottom}}}"
    forms = [f"${gold}$", f"\\boxed{{{gold}}}", f"$\\frac{{{2 * top}}}{{{2 * bottom}}}$"]
    if value.denominator > 1:
        forms.append(f"{top}/{bottom}")
    assert {reward(gold, form) for form in forms} == {1.0}
    assert reward(gold, f"$\\frac{{{top + 1}}}{{{bottom}}}$") == 0.0


@settings(deadline=None)
@given(numbers, numbers, st.sampled_from("+-*"))
def test_repeating_the_question_earns_nothing(a: int, b: int, operator: str) -> None:
    question = f"{abs(a) + 2} {operator} {abs(b) + 2}"
    right = str(eval(question))
    assert reward(right, question) == 0.0
    assert reward(right, f"{question} = {right}") == 1.0


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("7 apples", "$7$", 1.0), ("$18", "18 dollars", 1.0), ("1,234", "1234", 1.0), ("0.5", "1/2", 1.0),
        ("\\frac{1}{2}", "50%", 1.0), ("2x+1", "$1+2x$", 1.0), ("2x+1", "2", 0.0),
        ("\\sqrt{2}", "$\\sqrt{2}$", 1.0),
        ("(1, 2)", "$(1,2)$", 1.0), ("(1, 2)", "$(2,1)$", 0.0), ("4", "8 / 2", 0.0), ("4", "2**2", 0.0),
        ("7", "first 3, then 7", 1.0), ("7", "first 7, then 3", 0.0),
    ],
)  # fmt: skip
def test_forms(gold: str, answer: str, expected: float) -> None:
    assert reward(gold, answer) == expected


@pytest.mark.parametrize(
    ("gold", "answer", "expected", "reason"),
    [
        ("7", "", 0.0, "no mathematical expression"),
        ("7", "seven", 0.0, "no mathematical expression"),
        ("7", "٣", 0.0, "cannot read the answer: "),
        ("7", "$" + "{" * 3000 + "7" + "}" * 3000 + "$", 0.0, "nested too deeply"),
        ("7", "3 + 4", 0.0, "not worked out"),
        ("Paris", "7", None, "cannot read the right answer 'Paris'"),
    ],
)
def test_a_missing_or_unreadable_answer_has_its_reason(
    gold: str, answer: str, expected: float | None, reason: str
) -> None:
    verdict = judge(gold, answer, Config())
    assert verdict.reward == expected
    assert reason in (verdict.error or "")


def test_of_a_long_answer_the_end_counts() -> None:
    config = Config(max_answer_characters=100)
    assert judge("7", "9 " * 100_000 + "so it is 7", config).reward == 1.0
    assert judge("7", "so it is 7" + " blah" * 100, config).reward == 0.0


@pytest.fixture(scope="module")
def court() -> Iterator[Judge]:
    made = Judge(Choice(name="math", timeout_seconds=2.0))
    made.judge([("7", "7")])
    yield made
    made.close()


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.text("0123456789+-*/^(){}$\\.,=fracsqt ", max_size=60))
def test_no_text_raises_and_every_text_has_a_verdict(court: Judge, answer: str) -> None:
    (verdict,) = court.judge([("1009", answer)])
    assert verdict.reward in (0.0, 1.0, None)
    assert verdict.reward is not None or verdict.error


@pytest.mark.parametrize(
    "answer",
    [
        "10**10**10",
        "9^9^9^9",
        "$10^{10^{10^{10}}}$",
        "1e999999999",
        "7\x00",
        "\ud800",
        "9" * 5000,
        "(" * 5000,
        "$" * 5000,
    ],
)
def test_hostile_answers_are_judged_in_time(court: Judge, answer: str) -> None:
    assert court.judge([("1009", answer), ("7", "7")])[1].reward == 1.0
