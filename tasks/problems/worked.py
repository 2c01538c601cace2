"""Calculations worked out, an operation at a time: demonstrations for generated problems."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2}
_SIGNED, _NUMBER = 3, 4


@dataclass(frozen=True)
class Operation:
    """One operation of a calculation, with the values of its operands."""

    left: str
    sign: str
    right: str
    value: str
    rest: str
    """The expression with its value in its place."""


@dataclass
class _Node:
    """A number, where ``sign`` is empty; a negation, where there is no ``left``; else an operation."""

    value: Fraction
    sign: str = ""
    left: _Node | None = None
    right: _Node | None = None


def operations(expression: str) -> list[Operation]:
    """Those of ``+ - * /`` and parentheses on decimal numbers, innermost and leftmost first.

    Raises ``ValueError`` for another expression, ``ZeroDivisionError`` where it divides by zero.
    """
    root = _read(ast.parse(expression.strip(), mode="eval").body, expression.strip())
    found: list[Operation] = []
    while (node := _next(root)) is not None:
        if node.left is None or node.right is None:
            node.value, node.sign, node.right = -_right(node).value, "", None
            continue
        left, sign, right = written(node.left.value), node.sign, written(node.right.value)
        node.value = _result(node.left.value, sign, node.right.value)
        node.sign, node.left, node.right = "", None, None
        found.append(Operation(left, sign, right, written(node.value), _text(root)[0]))
    return found


def worked(expression: str, answer: str) -> str:
    """``= `` and the expression after each of its operations, a line each, the last one the answer; of a
    single operation the answer alone."""
    lines = [*(one.rest for one in operations(expression)[:-1]), answer]
    return "\n".join(f"= {line}" for line in lines) if len(lines) > 1 else answer


def common_divisor(numbers: Sequence[int]) -> str:
    """Euclid's algorithm, a division a line; the last line is the greatest common divisor."""
    return "\n".join([*_divisions(numbers), str(math.gcd(*numbers))])


def common_multiple(numbers: Sequence[int]) -> str:
    """Two numbers at a time, their product over their common divisor; the last line is the multiple."""
    lines, found = [], numbers[0]
    for number in numbers[1:]:
        shared = math.gcd(found, number)
        lines.append(f"{found} * {number} / {shared} = {found * number // shared}")
        found = found * number // shared
    return "\n".join([*lines, str(found)])


def written(value: Fraction) -> str:
    """A decimal number where it has an end, else a fraction."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest > 1:
        return f"{value.numerator}/{value.denominator}"
    if value.denominator == 1:
        return str(value.numerator)
    return f"{Decimal(value.numerator) / Decimal(value.denominator):f}"


def _divisions(numbers: Sequence[int]) -> Iterator[str]:
    found = numbers[0]
    for number in numbers[1:]:
        larger, smaller = max(found, number), min(found, number)
        while smaller:
            times, rest = divmod(larger, smaller)
            yield f"{larger} = {times} * {smaller} + {rest}"
            larger, smaller = smaller, rest
        found = larger


def _read(tree: ast.expr, source: str) -> _Node:
    if isinstance(tree, ast.Constant):
        return _Node(Fraction(ast.get_source_segment(source, tree) or ""))
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        return _Node(Fraction(0), "-", None, _read(tree.operand, source))
    if isinstance(tree, ast.BinOp) and type(tree.op) in _SIGNS:
        parts = _read(tree.left, source), _read(tree.right, source)
        return _Node(Fraction(0), _SIGNS[type(tree.op)], *parts)
    raise ValueError(f"not a calculation: {source}")


def _next(node: _Node) -> _Node | None:
    """The leftmost node whose operands are numbers."""
    if not node.sign:
        return None
    inner = next((one for part in (node.left, node.right) if part and (one := _next(part))), None)
    return inner or node


def _right(node: _Node) -> _Node:
    assert node.right is not None
    return node.right


def _result(left: Fraction, sign: str, right: Fraction) -> Fraction:
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    return left * right if sign == "*" else left / right


def _text(node: _Node) -> tuple[str, int]:
    """An expression without needless parentheses, and how tightly its outermost operator binds."""
    if not node.sign:
        text = written(node.value)
        return text, _SIGNED if text.startswith("-") else (_BINDS["/"] if "/" in text else _NUMBER)
    right, tight = _text(_right(node))
    if node.left is None:
        return (f"-{right}" if tight == _NUMBER else f"-({right})"), _SIGNED
    binds = _BINDS[node.sign]
    left, loose = _text(node.left)
    left = left if loose >= binds else f"({left})"
    bare = tight == _NUMBER or (binds < tight < _SIGNED) or (tight == binds and node.sign in "+*")
    return f"{left} {node.sign} {right if bare else f'({right})'}", binds
