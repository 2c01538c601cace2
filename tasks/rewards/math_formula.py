"""Formulas, read by ``math-verify``, compared by sympy; two numbers are one that agree to 25 digits."""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from math_verify import parse, verify
from sympy.core.expr import UnevaluatedExpr

from tasks.rewards.base import Verdict

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
_ARITHMETIC = re.compile(r"[\d\s.,+\-*/%^]+")
_WORD = re.compile(r"[A-Za-z]{3}")
_EVALUATED = 50
"""Digits to which numbers are evaluated."""
_CLOSE = sympy.Float("1e-25")
"""Relative difference below which two of them are one."""
_ROUNDED = sympy.Float("5e-7")
"""The same where one has decimals."""


def judge_formula(gold: str, part: str, worked_out: bool) -> Verdict:
    """Whether the part of an answer that holds its value is the formula ``gold``, in another form perhaps."""
    right = read_gold(gold)
    try:
        given = _read(part)
    except _UNREADABLE as error:
        return Verdict(0.0, f"cannot read the answer: {type(error).__name__}")
    if not given:
        return Verdict(0.0, "no mathematical expression in the answer")
    if worked_out and not all(_worked_out(expression, right[0]) for expression in given):
        return Verdict(0.0, "an expression that is not worked out")
    alike = verify(right, given, timeout_seconds=None, raise_on_error=True)
    return Verdict(float(alike and not _apart(right[0], given[0])))


def _read(text: str) -> list[Any]:
    return list(parse(text, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True))


@lru_cache(maxsize=4096)
def read_gold(gold: str) -> list[Any]:
    """Numbers as they stand; ``7 apples`` as 7; bare LaTeX or algebra as if in dollar signs."""
    prose = _ARITHMETIC.fullmatch(gold) or (_WORD.search(gold) and "\\" not in gold)
    if prose or "$" in gold or "\\boxed" in gold:
        return _read(gold)
    return _read(f"${gold}$")


def number_of(gold: str) -> Fraction | None:
    """The value of a formula that is a real number, to 50 digits; None where it is none."""
    right = read_gold(gold)
    if not right or not isinstance(right[0], sympy.Expr) or not right[0].is_number:
        return None
    value = sympy.N(right[0], _EVALUATED)
    return Fraction(str(value)) if value.is_Float and value.is_finite else None


def _apart(right: Any, given: Any) -> bool:
    """Whether two numbers differ after all: math-verify compares six decimals and takes 2**-60 for 2**-61."""
    if not all(isinstance(side, sympy.Expr) and side.is_number for side in (right, given)):
        return False
    one, other = (sympy.N(side, _EVALUATED) for side in (right, given))
    if not (one.is_number and other.is_number and one.is_finite and other.is_finite):
        return False
    rounded = any(side.atoms(sympy.Float) for side in (right, given))
    return bool(abs(one - other) > abs(one) * (_ROUNDED if rounded else _CLOSE))


def _worked_out(expression: Any, right: Any) -> bool:
    """Whether the answer to a question with a rational answer is a number, or a quotient if ``right`` is."""
    if not isinstance(right, sympy.Expr) or not (right.is_Rational or right.is_Float):
        return True
    if isinstance(expression, sympy.Eq):
        expression = expression.rhs
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
