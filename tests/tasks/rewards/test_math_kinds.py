"""Kinds of answers that judges get wrong: each right in its forms, and wrong in what looks like it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rewards.math import Config, judge, weigh

RIGHT = {
    "35\\%": (
        "\\boxed{35\\%}",
        "\\boxed{35 percent}",
        "\\boxed{0.35}",
        "35",
        "It grew by 35 per cent.",
        "\\frac{7}{20}",
    ),
    "-6": ("#### −6", "\\boxed{–6}", "the value is －６", "x = −6."),
    "90": ("90°", "\\boxed{90^\\circ}", "$90^{\\circ}$", "90 degrees"),
    "0.5": ("½", "\\boxed{½}", "1/2", "50%"),
    "9/4": ("… is 2 1/4 metres long.", "\\boxed{2\\frac{1}{4}}", "2¼", "2.25", "$\\frac{9}{4}$"),
    "4, 9": (
        "\\boxed{9, 4}",
        "The values are 4 and 9.",
        "\\boxed{x = 4, 9}",
        "$4$ or $9$ … so \\boxed{4 \\text{ or } 9}",
    ),
    "2 - \\frac{1}{\\mathrm{e}}": ("\\boxed{2 - \\frac{1}{e}}", "$2 - \\frac1e$"),
    "33": (
        "<think>11 times 3</think><answer>33</answer>",
        "<think>\\boxed{3}</think> It is 33.",
        "The answer to 30 + 3 is 33, since 3 tens and 3 ones are 33, and not 34.",
        "The answer would be 33 because 2 of 30 are left.",
        "30 + 3 = 33\n\nI hope that helps",
        "A simple answer - 33.",
    ),
    "\\frac{1}{2^{60}}": ("\\boxed{\\frac{1}{2^{60}}}", "\\boxed{2^{-60}}"),
    "0.0000003": ("\\boxed{3 \\times 10^{-7}}", "3e-7", "3·10⁻⁷", "3 \\cdot 10^{-7}"),
    "46": ("**Answer: \\$46 per week.**", "\\boxed{46 \\text{ cm}}", "$46", "46 apples"),
    "2034_5": ("\\boxed{2034_5}", "2034_{5}", "2034 in base 5", "2034_{\\text{five}}", "2034₅", "2034"),
    "5 cm": ("\\boxed{50 mm}", "5", "5 centimetres"),
    "1000000": ("1,000,000", "1 000 000", "1\u2009000\u2009000", "10^6 = 1000000"),
    "\\frac{1}{6}": ("0.166667", "0.1\\overline{6}", "2/12"),
    "\\sqrt{2}": ("1.41421", "\\boxed{\\sqrt{2}}", "√2"),
    "(1, 2)": ("\\boxed{(1,2)}", "$\\left(1, 2\\right)$"),
    "\\{1, 2\\}": ("\\boxed{\\{2, 1\\}}", "\\boxed{1, 2}"),
    "x^2": ("x²", "\\boxed{x^2}"),
}
WRONG = {
    "35\\%": ("\\boxed{3.5\\%}", "\\boxed{53\\%}", "0.35\\%", "350%"),
    "35": ("\\boxed{0.35}",),
    "-6": ("#### 6", "−7", "-60"),
    "2": ("… is 2 2/3 metres long.", "2½", "\\boxed{2\\frac{1}{2}}", "2.0001", "5 - 3"),
    "9/4": ("4/9", "2 1/2", "1/4"),
    "4, 9": ("\\boxed{4}", "\\boxed{4, 9, 1}", "\\boxed{4, 8}", "49", "The value is 4."),
    "4": ("\\boxed{4, 9}", "8 / 2", "4x", "4 + x"),
    "33": (
        "<think>33</think><answer>11</answer>",
        "m33",
        "a 3 3",
        "so it is 66 - 33 =",
        "The answer is 30, and 3 more are 33.",
    ),
    "\\frac{1}{2^{60}}": ("\\boxed{\\frac{1}{2^{61}}}", "0"),
    "0.0000003": ("\\boxed{3 \\times 10^{-6}}", "3e7", "0.000003", "e-7"),
    "46": ("**Answer: \\$45 per week.**", "46/2", "$4.6", "2(23)"),
    "2034_5": ("\\boxed{2034_6}", "2043_5", "269"),
    "5 cm": ("\\boxed{5 m}", "5 kg"),
    "\\frac{1}{6}": ("0.17", "0.166666", "0.1666"),
    "\\sqrt{2}": ("1.41", "1.41422", "\\sqrt{3}", "2"),
    "(1, 2)": ("\\boxed{(2,1)}", "\\boxed{[1,2]}"),
    "[0, 1)": ("\\boxed{[0,1]}", "\\boxed{(0,1)}"),
    "\\{1, 2\\}": ("\\boxed{\\{1\\}}", "\\boxed{\\{1, 3\\}}"),
}


def flat(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(gold, answer) for gold, answers in table.items() for answer in answers]


@pytest.mark.parametrize(("gold", "answer"), flat(RIGHT))
def test_the_same_value_in_another_form_is_right(gold: str, answer: str) -> None:
    assert judge(gold, answer, Config()).reward == 1.0


@pytest.mark.parametrize(("gold", "answer"), flat(WRONG))
def test_a_look_alike_is_wrong(gold: str, answer: str) -> None:
    assert judge(gold, answer, Config()).reward == 0.0


@pytest.mark.parametrize(
    ("gold", "answer", "options", "expected"),
    [
        ("35\\%", "35", {"percent": "strict"}, 0.0),
        ("35\\%", "0.35", {"percent": "strict"}, 1.0),
        ("5 cm", "5 m", {"units": "ignore"}, 1.0),
        ("4, 9", "\\boxed{9, 4}", {"order": "given"}, 0.0),
        ("4, 9", "\\boxed{4, 9}", {"order": "given"}, 1.0),
        ("\\frac{1}{3}", "0.33", {"tolerance": 0.02}, 1.0),
        ("100", "101", {"tolerance": 0.02}, 1.0),
        ("100", "103", {"tolerance": 0.02}, 0.0),
        ("7", "3 + 4", {"worked_out": False}, 1.0),
        ("10^{-7}", "\\boxed{0.0000001}", {}, 1.0),
    ],
)
def test_what_is_a_matter_of_taste_is_an_option(
    gold: str, answer: str, options: dict[str, Any], expected: float
) -> None:
    assert judge(gold, answer, Config(**options)).reward == expected


fractions = st.fractions(min_value=-50, max_value=50, max_denominator=60).filter(lambda f: f.denominator > 1)


@settings(deadline=None, max_examples=60)
@given(fractions, st.sampled_from([Fraction(1, 60), Fraction(-1), Fraction(1)]))
def test_a_number_is_right_in_each_form_and_its_neighbour_in_none(value: Fraction, off: Fraction) -> None:
    gold = f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    for number, expected in ((value, 1.0), (value + off, 0.0)):
        sign, size = ("-" if number < 0 else ""), abs(number)
        whole, part = divmod(size, 1)
        mixed = f"{whole} {part.numerator}/{part.denominator}" if part and whole else f"{size}"
        forms = [
            f"\\boxed{{{sign}{mixed}}}",
            f"\\boxed{{{100 * number.numerator}/{number.denominator}\\%}}",
            f"#### {sign}{mixed}",
            f"it is {sign}{mixed} metres.",
            f"<think>{gold}</think>The answer is ${sign}\\dfrac{{{size.numerator}}}{{{size.denominator}}}$.",
        ]
        assert {form: judge(gold, form, Config()).reward for form in forms} == dict.fromkeys(forms, expected)


def test_a_verdict_tells_what_was_read() -> None:
    found = weigh("35\\%", "so it is \\boxed{36\\%}", Config())
    assert (found.extracted, found.read, found.against) == ("\\boxed{36\\%}", "36 %", "35 %")
