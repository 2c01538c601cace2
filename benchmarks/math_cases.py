"""What the pairs of math_judge.py are drawn with: a right answer, its forms, and how numbers are written."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

import sympy

Form = tuple[str, Any]
"""A text and the value that it states."""
Kind = Callable[[random.Random], "Case"]
MINUS = "\u2212"
THIN = "\u2009"
HIGH = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
WIDE = {ord("0") + digit: 0xFF10 + digit for digit in range(10)}
VULGAR = {
    (1, 2): "½",
    (1, 3): "⅓",
    (2, 3): "⅔",
    (1, 4): "¼",
    (3, 4): "¾",
    (1, 5): "⅕",
    (1, 6): "⅙",
    (1, 8): "⅛",
}
VULGAR |= {(3, 8): "⅜", (5, 8): "⅝", (7, 8): "⅞", (2, 5): "⅖", (3, 5): "⅗", (4, 5): "⅘", (5, 6): "⅚"}


@dataclass(frozen=True)
class Case:
    """A right answer, and forms of it and of values near it."""

    gold: str
    accepted: frozenset[Any]
    """The values that count; a form whose value is another is a near miss."""
    forms: tuple[Form, ...]
    named: bool = False
    """Whether ``x = `` may stand before a form."""

    def labelled(self, label: int) -> list[str]:
        return [text for text, value in self.forms if int(value in self.accepted) == label]


def case(
    rng: random.Random,
    gold: str,
    render: Callable[[Any], Iterable[str]],
    right: Any,
    near: Sequence[Any],
    extra: Iterable[Form] = (),
    *,
    measure: Callable[[Any], Any] = lambda drawn: drawn,
    also: Iterable[Any] = (),
    named: bool = False,
) -> Case:
    """Every form of ``right``, one form of each of ``near``, and ``extra``.

    ``measure`` gives the value of what was drawn; ``also``: other values that count.
    """
    forms = [(text, measure(right)) for text in render(right)]
    forms += [(rng.choice(list(render(other))), measure(other)) for other in near]
    return Case(gold, frozenset({measure(right), *also}), (*forms, *extra), named)


def exact(text: str) -> Fraction:
    return Fraction(text)


def plain(value: Fraction) -> str:
    """The digits of a terminating decimal."""
    return format(Decimal(value.numerator) / Decimal(value.denominator), "f")


def rounded(value: Any, digits: int) -> str:
    """``value`` correctly rounded to significant digits."""
    number = sympy.Rational(value.numerator, value.denominator) if isinstance(value, Fraction) else value
    return format(Context(prec=digits).create_decimal(str(sympy.N(number, 40))), "f")


def decimals(value: Any) -> list[Form]:
    """Decimals of a value that has no last digit: they count if rounded to six digits or more."""
    forms: list[Form] = [(rounded(value, digits), value) for digits in (6, 7, 9)]
    off = Decimal(rounded(value, 6))
    shorter = [text for digits in (3, 5) if Decimal(text := rounded(value, digits)) != off]
    unit = Decimal(1).scaleb(int(off.as_tuple().exponent))
    return forms + [
        (text, exact(text)) for text in (*shorter, format(off + unit, "f"), format(off - unit, "f"))
    ]


def quotient(value: Fraction, command: str = "frac") -> str:
    if value.denominator == 1:
        return str(value)
    sign = "-" if value < 0 else ""
    return rf"{sign}\{command}{{{abs(value.numerator)}}}{{{value.denominator}}}"


def proper(rng: random.Random, denominators: Sequence[int]) -> Fraction:
    """Between 0 and 1, exclusive."""
    denominator = rng.choice(denominators)
    return Fraction(rng.randint(1, denominator - 1), denominator)
