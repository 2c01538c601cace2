"""Countdown: 1 for an expression that uses each given number exactly once and equals the target, else 0.

The right answer is one solution, ``3*7+12``: it says which numbers are given and what they are to make. Any
other expression that does so is as right. Operators are ``+ - * /`` between two operands, with parentheses;
arithmetic is exact.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from pydantic import PositiveInt

from params.errors import OstinatoError
from tasks.rewards.base import Bounds, Verdict

__all__ = ["numbers", "tokens", "value"]

_TOKEN = re.compile(r"\s*(?:([0-9]+)|([-+*/()]))")
_SIGNS = str.maketrans("×·÷−", "**/-")
_DEEPEST = 40


class Config(Bounds):
    """How answers are read."""

    max_answer_characters: PositiveInt = 200
    """A longer expression is wrong unread."""


class Unreadable(OstinatoError):
    """Why a text is no expression, or one without a value."""


def judge(gold: str, answer: str, config: Config) -> Verdict:
    """Whether ``answer`` makes the value of ``gold`` from its numbers.

    Of several lines the last one counts, and of ``3*7+12 = 33`` what stands before the equals sign.
    """
    try:
        given, target = _read_gold(gold)
    except Unreadable:
        return Verdict(None, f"cannot read the right answer '{gold[:80]}'")
    expression = answer.strip().rpartition("\n")[2].partition("=")[0].strip()
    if len(expression) > config.max_answer_characters:
        return Verdict(0.0, f"an expression of more than {config.max_answer_characters} characters")
    try:
        found = tokens(expression)
        if numbers(found) != given:
            return Verdict(0.0, "other numbers than the given ones, each once")
        return Verdict(float(value(found) == target))
    except Unreadable as error:
        return Verdict(0.0, f"cannot read the answer: {error}")


def tokens(text: str) -> list[str]:
    """Numbers, operators and parentheses of an expression. Raises ``Unreadable``."""
    text = text.translate(_SIGNS).rstrip()
    found: list[str] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise Unreadable(f"unexpected {text[place : place + 1]!a}")
        found.append(match[1] or match[2])
        place = match.end()
    return found


def numbers(found: list[str]) -> list[str]:
    """The numbers among the tokens, in one order for any two expressions of the same ones."""
    return sorted(token.lstrip("0") or "0" for token in found if token[0].isdigit())


def value(found: list[str]) -> Fraction:
    """What an expression is worth. Raises ``Unreadable``."""
    reader = _Reader(found)
    result = reader.total(0)
    if reader.next:
        raise Unreadable(f"unexpected '{reader.next}'")
    return result


class _Reader:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, found: list[str]) -> None:
        self._waiting = found[::-1]

    @property
    def next(self) -> str:
        return self._waiting[-1] if self._waiting else ""

    def total(self, depth: int) -> Fraction:
        result = self._product(depth)
        while self.next in ("+", "-"):
            sign = 1 if self._waiting.pop() == "+" else -1
            result += sign * self._product(depth)
        return result

    def _product(self, depth: int) -> Fraction:
        result = self._operand(depth)
        while self.next in ("*", "/"):
            operator, operand = self._waiting.pop(), self._operand(depth)
            if operator == "/" and not operand:
                raise Unreadable("division by zero")
            result = result * operand if operator == "*" else result / operand
        return result

    def _operand(self, depth: int) -> Fraction:
        if not self._waiting:
            raise Unreadable("it ends too early")
        first = self._waiting.pop()
        if first[0].isdigit():
            return Fraction(int(first))
        if first != "(":
            raise Unreadable(f"unexpected '{first}'")
        if depth == _DEEPEST:
            raise Unreadable("nested too deeply")
        result = self.total(depth + 1)
        if self.next != ")":
            raise Unreadable("a parenthesis is not closed")
        self._waiting.pop()
        return result


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> tuple[list[str], Fraction]:
    found = tokens(gold)
    return numbers(found), value(found)
