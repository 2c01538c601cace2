"""Mathematical answers, compared by ``math-verify``: 1 for the right value in any of its forms, else 0.

Where in an answer the value stands is the option ``extract``. What reading it costs is bounded by the length
and depth that are read at all, and beyond that by the process around it.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any, Literal

import sympy
from math_verify import parse, verify
from pydantic import PositiveInt
from sympy.core.expr import UnevaluatedExpr

from tasks.rewards.base import Bounds, Verdict

__all__ = ["extracted"]

# math-verify warns that its alarms are off. They cannot interrupt C code and work in no thread but
# the first; the process that calls ``judge`` is bounded from outside instead.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_UNREADABLE = (
    ValueError,
    TypeError,
    ArithmeticError,
    AttributeError,
    LookupError,
    SyntaxError,
    RecursionError,
)
# The parser's time is exponential in the depth of braces.
_DEEPEST = 40
_ARITHMETIC = re.compile(r"[\d\s.,+\-*/%^]+")
_WORD = re.compile(r"[A-Za-z]{3}")
_NUMBER = re.compile(
    r"(?<![0-9.,])-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:(?<=[0-9])\.[0-9]+|(?<![0-9])\.[0-9]+)?"
    r"(?:(?<=[0-9])/[0-9]+)?%?"
)
_PLAIN = re.compile(r"-?[0-9]{1,200}(?:\.[0-9]{1,200})?")
_NO_VALUE = {"", "?", "-", "n/a", "na", "nan", "nil", "none", "null", "unknown", "tbd", "inf", "infinity"}
"""What tables hold where nobody knows the answer."""
_COMMAND = re.compile(r"\\[A-Za-z]+(?:\{[^{}]*\})?")
_WORDS = re.compile(r"[A-Za-z]{2,}")
_MOST_WORDS = 4
_BOXED = "\\boxed"
_MARKER = "####"


class Config(Bounds):
    """How answers are read."""

    extract: Literal["auto", "boxed", "hashes", "last_number"] = "auto"
    """Where the value stands. ``boxed``: in the last ``\\boxed{}``. ``hashes``: after the last ``####``, up
    to the end of its line. ``last_number``: the last number in digits. ``auto``: the last ``\\boxed{}`` that
    is closed, else after the last ``####``, else the last expression that ``math-verify`` finds."""
    max_answer_characters: PositiveInt = 8192
    """Of a longer answer, only so many characters of its end are read."""
    worked_out: bool = True
    """Where the right answer is a number, the answer must be one too: ``3 + 4`` is no answer to ``3 + 4``."""


def judge(gold: str, answer: str, config: Config) -> Verdict:
    """Whether ``answer`` ends in the value of ``gold``."""
    right = _read_gold(gold)
    if not right:
        return Verdict(None, f"cannot read the right answer '{gold[:80]}'")
    found = extracted(answer[-config.max_answer_characters :], config.extract)
    if found is None:
        return Verdict(0.0, f"no {_WANTED[config.extract]} in the answer")
    answer = found
    if _depth(answer) > _DEEPEST:
        return Verdict(0.0, "the answer is nested too deeply to read")
    try:
        given = _read(answer)
    except _UNREADABLE as error:
        return Verdict(0.0, f"cannot read the answer: {type(error).__name__}")
    if not given:
        return Verdict(0.0, "no mathematical expression in the answer")
    if config.worked_out and not all(_worked_out(expression, right[0]) for expression in given):
        return Verdict(0.0, "an expression that is not worked out")
    return Verdict(float(verify(right, given, timeout_seconds=None, raise_on_error=True)))


def self_answers(gold: str, config: Config) -> tuple[str, ...]:
    """``gold`` as an answer; none for a plain number. Raises ``ValueError`` for a text that is no value."""
    if _PLAIN.fullmatch(gold):
        return ()
    if gold.strip(" .()[]*").casefold() in _NO_VALUE:
        raise ValueError("is no value")
    if "$" not in gold and len(_WORDS.findall(_COMMAND.sub(" ", gold))) > _MOST_WORDS:
        raise ValueError(
            r"is a text; expected a value, or a solution that ends in '#### value' or \boxed{value} "
            "(task.problems.last_number=true takes its last number)"
        )
    if config.extract == "last_number":
        return (gold,)
    if config.extract == "hashes":
        return (f"{_MARKER} {gold}",)
    boxed = f"{_BOXED}{{{gold}}}"
    return (boxed,) if config.extract == "boxed" else (boxed, gold)


_WANTED = {"boxed": "closed \\boxed{}", "hashes": "####", "last_number": "number"}


def extracted(answer: str, where: str) -> str | None:
    """The part of an answer that holds its value, as ``Config.extract`` says; None where it has none."""
    if where == "last_number":
        numbers = [match[0] for match in _NUMBER.finditer(answer) if any("0" <= c <= "9" for c in match[0])]
        return numbers[-1].replace(",", "") if numbers else None
    boxed = _boxed(answer) if where in ("auto", "boxed") else None
    if boxed is not None or where == "boxed":
        return boxed
    if _MARKER in answer:
        line: str = answer.rpartition(_MARKER)[2].strip().partition("\n")[0]
        return line if line or where == "hashes" else answer
    return answer if where == "auto" else None


def _boxed(answer: str) -> str | None:
    r"""Of every ``\boxed{...}`` whose braces are closed the one that begins last, with its content."""
    opened: list[int] = []
    start, stop = -1, -1
    for place, character in enumerate(answer):
        if character == "{":
            opened.append(place)
        elif character == "}" and opened:
            began = opened.pop()
            if began > start and answer[max(began - 20, 0) : began].rstrip().endswith(_BOXED):
                start, stop = began, place
    return None if start < 0 else _BOXED + answer[start : stop + 1]


def _read(text: str) -> list[Any]:
    return list(parse(text, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True))


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> list[Any]:
    """Numbers as they stand; ``7 apples`` as 7; bare LaTeX or algebra as if in dollar signs."""
    prose = _ARITHMETIC.fullmatch(gold) or (_WORD.search(gold) and "\\" not in gold)
    if prose or "$" in gold or "\\boxed" in gold:
        return _read(gold)
    return _read(f"${gold}$")


def _depth(text: str) -> int:
    deepest = depth = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth = max(depth - 1, 0)
    return deepest


def _worked_out(expression: Any, right: Any) -> bool:
    """Whether the answer to a question with a rational answer is a number, or a quotient if ``right`` is."""
    if not isinstance(right, sympy.Expr) or not (right.is_Rational or right.is_Float):
        return True
    if not isinstance(expression, sympy.Expr):
        return True
    nodes = list(sympy.preorder_traversal(expression))
    quotient = all(
        isinstance(node, sympy.Mul | UnevaluatedExpr) or _inverse(node) for node in nodes if node.args
    )
    numbers = [node for node in nodes if node.is_Number and abs(node) != 1]
    return quotient and len(numbers) <= (1 if right.is_Integer else 2)


def _inverse(node: Any) -> bool:
    return isinstance(node, sympy.Pow) and node.args[1] == -1 and node.args[0].is_Number
