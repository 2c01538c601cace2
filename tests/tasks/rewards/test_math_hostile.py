"""Hostile mathematical answers cost their time limit at most, and nobody else anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from params.base import Choice
from tasks.rewards.judge import Judge
from tasks.rewards.math import Config, extracted, judge
from tests.tasks.rewards.hostile_maths import BRACKETS, FACTORIALS, FAMILIES, LETTERS, NUMBERS, TOWERS

EXTRACTS = ("auto", "boxed", "hashes", "last_number")
RIGHT_BY_CHANCE = {
    "1_0_0_9",
    "𝟏𝟎𝟎𝟗",
    "１００９",
    "١٠٠٩",
    "๑๐๐๙",
    "1009j",
    "$\\text{1009}$ or 3",
    "$x > 1009$",
    "1\u2009009",
}
"""Forms of 1009, which may be read as what they say."""


def outcomes(answers: list[str], extract: str = "auto") -> list[tuple[float | None, str | None]]:
    """What is said of each answer, between honest ones that must stay right."""
    pairs = [pair for answer in answers for pair in (("1009", answer), ("12", "\\boxed{12} #### 12"))]
    options = {"name": "math", "timeout_seconds": 1.5, "memory_mib": 700, "extract": extract}
    court = Judge(Choice.model_validate(options), workers=2)
    try:
        found = court.judge(pairs)
    finally:
        court.close()
    assert [verdict.reward for verdict in found[1::2]] == [1.0] * len(answers)
    return [(verdict.reward, verdict.error) for verdict in found[::2]]


def harmless(answers: list[str], extract: str = "auto") -> None:
    for answer, (reward, error) in zip(answers, outcomes(answers, extract), strict=True):
        assert reward != 1.0 or answer in RIGHT_BY_CHANCE, answer[:80]
        assert reward is not None or error, answer[:80]


def test_a_few_of_each_family() -> None:
    harmless([TOWERS[0], FACTORIALS[0], *BRACKETS[::10], *NUMBERS[1::8], *LETTERS[::8]])


@pytest.mark.long
@pytest.mark.ci
def test_every_hostile_answer() -> None:
    answers = [answer for family in FAMILIES.values() for answer in family]
    assert len(set(answers)) == len(answers) >= 100
    harmless(answers)


def test_where_the_value_stands_is_found_in_any_of_them(tmp_path: Path) -> None:
    for family in FAMILIES.values():
        for answer in family:
            for where in EXTRACTS:
                part = extracted(answer[-8192:], where)
                assert part is None or len(json.dumps(part)) <= 12 * 8192


FORMS = [
    # answer, and what is read by auto, boxed, hashes, last_number
    ("so \\boxed{12}", (1, 1, 0, 1)),
    ("so \\boxed {12}", (1, 1, 0, 1)),
    ("\\boxed{3}, no: \\boxed{12} since 3 < 4", (1, 1, 0, 0)),
    ("\\boxed{12} and \\boxed{4", (1, 1, 0, 0)),
    ("\\boxed{\\frac{24}{2}}", (0, 0, 0, 0)),
    ("9 + 3 = 12\n#### 12", (1, 0, 1, 1)),
    ("#### 7\nno\n#### 12\nand 5 more", (1, 0, 1, 0)),
    ("\\boxed{12}\n#### 13", (1, 1, 0, 0)),
    ("#### 12 apples", (1, 0, 1, 1)),
    ("The answer is 12.", (1, 0, 0, 1)),
    ("12 of 13", (0, 0, 0, 0)),
    ("1,2 or 12", (1, 0, 0, 1)),
    ("$12.00", (1, 0, 0, 1)),
    ("twelve", (0, 0, 0, 0)),
    ("١٢", (0, 0, 0, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "expected"), FORMS, ids=[form[0][:20] for form in FORMS])
def test_each_way_to_give_an_answer(answer: str, expected: tuple[int, ...]) -> None:
    found = [judge("12", answer, Config(extract=where)).reward for where in EXTRACTS]  # type: ignore[arg-type]
    assert found == [float(x) for x in expected]


@pytest.mark.parametrize(
    ("extract", "reason"),
    [("boxed", "no closed \\boxed{} in"), ("hashes", "no #### in"), ("last_number", "no number in")],
)
def test_an_answer_without_the_wanted_form_says_so(extract: str, reason: str) -> None:
    verdict = judge("12", "twelve", Config(extract=extract))  # type: ignore[arg-type]
    assert verdict.reward == 0.0
    assert reason in (verdict.error or "")


@pytest.mark.parametrize(
    ("gold", "options"), [("1009", {"worked_out": False}), ("\\frac{1009}{\\pi}", {}), ("x^{1009}", {})]
)
def test_the_limits_hold_where_nothing_has_to_be_worked_out(gold: str, options: dict[str, bool]) -> None:
    choice = {"name": "math", "timeout_seconds": 1.5, "memory_mib": 700, **options}
    hostile = [TOWERS[0], TOWERS[-1], FACTORIALS[0], BRACKETS[0], NUMBERS[0]]
    court = Judge(Choice.model_validate(choice), workers=2)
    try:
        found = court.judge([pair for answer in hostile for pair in ((gold, answer), ("12", "\\boxed{12}"))])
    finally:
        court.close()
    assert [verdict.reward for verdict in found[1::2]] == [1.0] * len(hostile)
    assert all(verdict.reward != 1.0 for verdict in found[::2])
