"""A calculator as a tool, for arithmetic and mathematics: the judge reads what the model says at the end."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from fractions import Fraction

LONGEST = 200
"""Characters of an expression."""
LARGEST = 10**30
MOST_POWER = 100
OPERATORS: dict[type[ast.AST], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
}


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise ValueError("a root of a negative number")
    exact = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    return exact if exact * exact == value else Fraction(math.sqrt(value))


FUNCTIONS: dict[str, Callable[..., Fraction]] = {
    "abs": abs,
    "max": max,
    "min": min,
    "gcd": lambda *given: Fraction(math.gcd(*map(_whole, given))),
    "lcm": lambda *given: Fraction(math.lcm(*map(_whole, given))),
    "sqrt": _root,
}


class Calculator:
    """Works out expressions, exactly where it can."""

    def reset(self) -> None:
        """Nothing is kept from one expression to the next."""

    def calculator(self, expression: str) -> str:
        """Work out an arithmetic expression.

        Args:
            expression: numbers, + - * / // % **, parentheses, and sqrt, gcd, lcm, abs, min, max
        """
        if len(expression) > LONGEST:
            raise ValueError(f"more than {LONGEST} characters")
        return _shown(_value(ast.parse(expression.strip().replace("^", "**"), mode="eval").body))


def _value(node: ast.AST) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            found = Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            found = -_value(inner)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            found = _value(inner)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            found = _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            found = OPERATORS[type(op)](_value(left), _value(right))
        case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in FUNCTIONS:
            found = FUNCTIONS[name](*map(_value, given))
        case _:
            raise ValueError(f"cannot work out {ast.unparse(node)[:40]}")
    if abs(found.numerator) > LARGEST or found.denominator > LARGEST:
        raise ValueError("a number too large")
    return found


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent == Fraction(1, 2):
        return _root(base)
    power = _whole(exponent)
    if abs(power) > MOST_POWER:
        raise ValueError("a power too large")
    return base**power


def _whole(value: Fraction) -> int:
    if value.denominator != 1:
        raise ValueError(f"{_shown(value)} is no whole number")
    return value.numerator


def _shown(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.10g}"


ENVIRONMENT = Calculator
