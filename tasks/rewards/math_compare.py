"""Whether a value that is written out is the right one, and values that are listed the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from tasks.rewards.math_formula import judge_formula
from tasks.rewards.math_items import Items, read_items
from tasks.rewards.math_options import Config
from tasks.rewards.math_text import BOXED
from tasks.rewards.math_values import Value, read_value, stands_for

MOST_ITEMS = 24
"""Values of a list that are compared."""


def target_of(gold: str) -> Value | Items | None:
    """A text as the value or the values that it writes out; None where a formula has to be read."""
    return read_value(gold) or read_items(gold)


def differs(target: Value | Items, found: Value | Items, config: Config) -> str | None:
    """Why it is not the right answer: a reason, or nothing to say; None where it is."""
    if isinstance(target, Value) and isinstance(found, Value):
        unfinished = found.form == "fraction" and found.number.denominator == 1
        if config.worked_out and target.form == "whole" and unfinished:
            return "an expression that is not worked out"
        return None if _same_value(target, found, config) else ""
    if isinstance(target, Items) and isinstance(found, Items):
        return None if _same_items(target, found, config) else ""
    return (
        "several values, and the right answer is one" if isinstance(found, Items) else "one value of several"
    )


def _same_value(right: Value, given: Value, config: Config) -> bool:
    if right.base or given.base:
        alike = right.base == given.base or not (right.base and given.base)
        return alike and _numeral(right) == _numeral(given)
    one, other = right.number, given.number
    if config.units == "known" and right.unit and given.unit:
        if right.unit[0] != given.unit[0]:
            return False
        one, other = one * right.unit[1], other * given.unit[1]
    if right.percent != given.percent:
        if right.unit or given.unit:
            return False
        # 35 for 35 %, and 35 % for 35; not 0.98 % for 0.98
        bare = config.percent == "lenient" and (right.percent or abs(one) >= 1)
        if bare and _close(right, given, one, other, config):
            return True
    one, other = (value / 100 if side.percent else value for value, side in ((one, right), (other, given)))
    return _close(right, given, one, other, config)


def _numeral(value: Value) -> str:
    return value.numeral or str(value.number)


def _close(right: Value, given: Value, one: Fraction, other: Fraction, config: Config) -> bool:
    if one == other or abs(one - other) <= config.tolerance * abs(one):
        return True
    same_scale = one == right.number and other == given.number
    return same_scale and (stands_for(given, right.number) or stands_for(right, given.number))


def _same_items(right: Items, given: Items, config: Config) -> bool:
    """Of equal counts, each matched by another; by place, where the order counts."""
    if len(right.parts) != len(given.parts) or len(right.parts) > MOST_ITEMS:
        return False
    if right.kind == "tuple" and given.kind == "tuple" and right.brackets != given.brackets:
        return False
    if "tuple" in (right.kind, given.kind) and "set" in (right.kind, given.kind):
        return False
    if right.kind == "list" and given.kind == "tuple" and given.brackets != "()":
        return False
    equal = [[_same_part(one, other, config) for other in given.parts] for one in right.parts]
    if right.kind == "tuple" or (right.kind == "list" and config.order == "given"):
        return all(row[place] for place, row in enumerate(equal))
    return _matched(equal)


def _matched(equal: Sequence[Sequence[bool]]) -> bool:
    """Whether each row has a column of its own: a bipartite matching, by augmenting paths."""
    owner: dict[int, int] = {}

    def placed(row: int, seen: set[int]) -> bool:
        for column, fits in enumerate(equal[row]):
            if fits and column not in seen:
                seen.add(column)
                if column not in owner or placed(owner[column], seen):
                    owner[column] = row
                    return True
        return False

    return all(placed(row, set()) for row in range(len(equal)))


def _same_part(right: str, given: str, config: Config) -> bool:
    one, other = target_of(right), target_of(given)
    if one is not None and other is not None:
        return differs(one, other, config) is None
    return judge_formula(right, f"{BOXED}{{{given}}}", config.worked_out).reward == 1.0
