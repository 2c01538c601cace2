"""When two results are the same: by our multiset rule, by Spider's rule, by BIRD's rule.

Spider: Zhong, Yu and Klein, "Semantic Evaluation for Text-to-SQL with Distilled Test Suites", EMNLP 2020,
as its evaluation script decides. BIRD: Li et al., NeurIPS 2023, likewise. The multiset rule is ours.

Every comparison is linear in the rows up to sorting, but for the search of an order of columns, which is
pruned column by column and gives up after ``MOST_CELLS`` looked-at cells.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from tasks.rewards.sql_result import QueryError, Row

MOST_CELLS = 20_000_000


def multiset_equal(
    gold: Sequence[Row], given: Sequence[Row], ordered: bool, tolerance: float, any_columns: bool = False
) -> bool:
    """The same rows, each as often, and in the same order if ``ordered``.

    NULL equals NULL; text, bytes and numbers never equal each other; 1 equals 1.0. Of numbers that are not
    whole, neighbours among all numbers of both results count as equal if they differ by at most
    ``tolerance`` · max(1, magnitude). With ``any_columns`` the columns may come in another order.
    """
    if len(gold) != len(given) or (gold and len(gold[0]) != len(given[0])):
        return False
    if gold == given:
        return True
    least = _least_equal([*gold, *given], tolerance)
    left, right = (
        [tuple(least.get(value, value) for value in row) for row in rows] for rows in (gold, given)
    )
    if any_columns:
        return _some_order_of_columns(left, right, ordered)
    return left == right if ordered else Counter(left) == Counter(right)


def spider_equal(gold: Sequence[Row], given: Sequence[Row], ordered: bool) -> bool:
    """Spider's rule: some order of the columns makes them equal multisets, or lists if ``ordered``.

    Two empty results are equal whatever their columns. Rows must agree before any search when the values of
    each are sorted as text with their type, which refuses some pairs that differ only by 1 against 1.0.
    """
    if not gold and not given:
        return True
    if len(gold) != len(given) or len(gold[0]) != len(given[0]):
        return False
    left, right = [_unordered(row) for row in gold], [_unordered(row) for row in given]
    if (left != right) if ordered else (set(left) != set(right)):
        return False
    return _some_order_of_columns(gold, given, ordered)


def bird_equal(gold: Sequence[Row], given: Sequence[Row]) -> bool:
    """BIRD's rule: the same set of rows, values in the gold query's order of columns."""
    return set(gold) == set(given)


def _least_equal(rows: Iterable[Row], tolerance: float) -> dict[Any, int | float]:
    """By number the least one of its class: those that are equal within the tolerance."""
    values = sorted({value for row in rows for value in row if isinstance(value, int | float)})
    least = dict(zip(values, values, strict=True))
    for before, value in pairwise(values):
        if _close(before, value, tolerance):
            least[value] = least[before]
    return least


def _whole(value: int | float) -> bool:
    return isinstance(value, int) or value.is_integer()


def _close(low: int | float, high: int | float, tolerance: float) -> bool:
    """Whether two numbers that are not equal count as equal."""
    if (_whole(low) and _whole(high)) or math.isinf(low) or math.isinf(high):
        return False
    return high - low <= tolerance * max(1.0, abs(low), abs(high))


def _unordered(row: Row) -> Row:
    return tuple(sorted(row, key=lambda value: str(value) + str(type(value))))


def _some_order_of_columns(gold: Sequence[Row], given: Sequence[Row], ordered: bool) -> bool:
    """Whether the columns of ``given`` can be put in an order that makes the results equal.

    Depth first: one column of the gold result after the other, the most constrained first. After each choice
    the rows so far must be equal multisets; a row so far is known by a number.
    """
    left, right = list(zip(*gold, strict=True)), list(zip(*given, strict=True))
    if ordered:
        return Counter(left) == Counter(right)
    bags = [Counter(column) for column in right]
    fits = [[i for i, bag in enumerate(bags) if bag == wanted] for wanted in map(Counter, left)]
    order = sorted(range(len(left)), key=lambda column: len(fits[column]))
    cells = 0

    def search(place: int, known: list[int], other: list[int], used: frozenset[int]) -> bool:
        nonlocal cells
        if place == len(order):
            return True
        column = order[place]
        distinct = {right[i]: i for i in reversed(fits[column]) if i not in used}  # of equal ones the first
        for choice in sorted(distinct.values()):
            numbers: dict[tuple[int, object], int] = {}
            longer, longer_other = (
                [numbers.setdefault(pair, len(numbers)) for pair in zip(rows, values, strict=True)]
                for rows, values in ((known, left[column]), (other, right[choice]))
            )
            cells += 2 * len(gold)
            if cells > MOST_CELLS:
                raise QueryError("too many ways to order the columns")
            same = Counter(longer) == Counter(longer_other)
            if same and search(place + 1, longer, longer_other, used | {choice}):
                return True
        return False

    return all(fits) and search(0, [0] * len(gold), [0] * len(gold), frozenset())
