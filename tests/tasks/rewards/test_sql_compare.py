"""The three comparisons against slow, obvious ones, and pairs that people get wrong."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rewards.sql_compare import bird_equal, multiset_equal, spider_equal
from tasks.rewards.sql_result import QueryError

Rows = list[tuple[Any, ...]]
TOLERANCE = 1e-9


def same(one: Any, other: Any) -> bool:
    """Our rule for two values, said plainly."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        whole = all(isinstance(x, int) or x.is_integer() for x in (one, other))
        return one == other or (not whole and math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9))
    return type(one) is type(other) and one == other


def obvious_multiset(gold: Rows, given: Rows, ordered: bool, any_columns: bool = False) -> bool:
    """Some order of rows, and of columns if they are free, in which every value is the same."""
    if len(gold) != len(given) or len({len(row) for row in gold + given}) > 1:
        return False
    columns = range(len(gold[0]) if gold else 0)
    for places in itertools.permutations(columns) if any_columns else [tuple(columns)]:
        moved = [tuple(row[i] for i in places) for row in given]
        for rows in [moved] if ordered else itertools.permutations(moved):
            if all(same(a, b) for r, s in zip(gold, rows, strict=True) for a, b in zip(r, s, strict=True)):
                return True
    return False


def obvious_spider(gold: Rows, given: Rows, ordered: bool) -> bool:
    """Their definition: all orders of columns, after their first look at the values of each row."""

    def key(value: Any) -> str:
        return str(value) + str(type(value))

    if not gold and not given:
        return True
    if len(gold) != len(given) or len(gold[0]) != len(given[0]):
        return False
    first, second = ([tuple(sorted(row, key=key)) for row in rows] for rows in (gold, given))
    if (
        (first != second)
        if ordered
        else any(row not in second for row in first) or any(row not in first for row in second)
    ):
        return False
    for places in itertools.permutations(range(len(gold[0]))):
        moved = [tuple(row[i] for i in places) for row in given]
        if ordered and moved == gold:
            return True
        if not ordered and all(moved.count(row) == gold.count(row) for row in moved + gold):
            return True
    return False


VALUES = st.sampled_from([None, 0, 1, 1.0, 2, 0.5, 0.5 + 1e-12, 1 + 1e-12, "1", "", "a", b"a", b"", "é"])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Rows, Rows]:
    """Two results that are often nearly the same."""
    width = draw(st.integers(1, 3))
    rows = st.lists(st.tuples(*[VALUES] * width), max_size=4)
    gold = draw(rows)
    if draw(st.booleans()):
        return gold, draw(rows)
    given = draw(st.permutations(gold))
    places = draw(st.permutations(range(width)))
    given = [tuple(row[i] for i in places) for row in given]
    if given and draw(st.booleans()):
        at, column = draw(st.integers(0, len(given) - 1)), draw(st.integers(0, width - 1))
        row = list(given[at])
        row[column] = draw(VALUES)
        given[at] = tuple(row)
    return gold, given


@settings(max_examples=400, deadline=None)
@given(pairs(), st.booleans(), st.booleans())
def test_the_multiset_rule_is_the_obvious_one(both: tuple[Rows, Rows], ordered: bool, free: bool) -> None:
    gold, given = both
    found = multiset_equal(gold, given, ordered, TOLERANCE, free)
    assert found == obvious_multiset(gold, given, ordered, free)
    assert found == multiset_equal(given, gold, ordered, TOLERANCE, free)
    assert multiset_equal(gold, gold, ordered, TOLERANCE, free)
    if found:
        assert multiset_equal(gold, given, False, TOLERANCE, True)


@settings(max_examples=400, deadline=None)
@given(pairs(), st.booleans())
def test_spiders_rule_is_theirs(both: tuple[Rows, Rows], ordered: bool) -> None:
    assert spider_equal(*both, ordered) == obvious_spider(*both, ordered)


@settings(deadline=None)
@given(pairs())
def test_birds_rule_is_that_of_sets(both: tuple[Rows, Rows]) -> None:
    gold, given = both
    alike = all(row in given for row in gold) and all(row in gold for row in given)
    assert bird_equal(gold, given) == alike


TRICKY: list[tuple[str, Rows, Rows, str]] = [
    # what, gold, given, which rules call them the same: m multiset, o ordered, c columns free, s spider,
    # t spider ordered, b BIRD
    ("the same", [(1, "a"), (2, "b")], [(1, "a"), (2, "b")], "mocstb"),
    ("another order of rows", [(1,), (2,)], [(2,), (1,)], "mcsb"),
    ("another order of columns", [(1, "a")], [("a", 1)], "cst"),
    ("columns that differ row by row", [(1, 2), (3, 4)], [(1, 2), (4, 3)], ""),
    ("a duplicate more", [(1,), (1,), (2,)], [(1,), (2,), (2,)], "b"),
    ("a duplicate less", [(1,), (1,)], [(1,)], "b"),
    ("no rows", [], [], "mocstb"),
    ("no rows against one of NULL", [], [(None,)], ""),
    ("NULL", [(None,)], [(None,)], "mocstb"),
    ("NULL against nothing said", [(None,)], [("",)], ""),
    ("NULL against 0", [(None,)], [(0,)], ""),
    ("1 against 1.0", [(1,)], [(1.0,)], "mocstb"),
    ("1 against 1.0 beside 1.5, which Spider's first look refuses", [(1, 1.5)], [(1.0, 1.5)], "mocb"),
    ("1 against '1'", [(1,)], [("1",)], ""),
    ("text against bytes", [("a",)], [(b"a",)], ""),
    ("empty bytes against empty text", [(b"",)], [("",)], ""),
    ("a sum in another order", [(0.1 + 0.2,)], [(0.3,)], "moc"),
    ("a sum near a whole number", [(3.0000000000000004,)], [(3,)], "moc"),
    ("rounded", [(3.14159,)], [(3.14,)], ""),
    ("large whole numbers", [(10**15,)], [(10**15 + 1,)], ""),
    ("large whole numbers as floats", [(1e15,)], [(1e15 + 1,)], ""),
    ("infinity", [(math.inf,)], [(math.inf,)], "mocstb"),
    ("infinity against a number", [(2.5,)], [(math.inf,)], ""),
    ("infinities around a number", [(-math.inf, math.inf)], [(2.5, 2.5)], ""),
    ("a date against a time", [("2020-01-01",)], [("2020-01-01 00:00:00",)], ""),
    ("a date against a number", [("2020",)], [(2020,)], ""),
    ("capitals", [("A",)], [("a",)], ""),
    ("spaces", [("a",)], [("a ",)], ""),
    ("two ways to write é", [("\u00e9",)], [("e\u0301",)], ""),
    ("a column more", [(1,)], [(1, 1)], ""),
    ("equal columns", [(1, 1), (2, 2)], [(2, 2), (1, 1)], "mcsb"),
    ("negative zero", [(0.0,)], [(-0.0,)], "mocstb"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("gold", "given", "rules"), [row[1:] for row in TRICKY], ids=[row[0] for row in TRICKY]
)
def test_tricky_pairs(gold: Rows, given: Rows, rules: str) -> None:
    found = {
        "m": multiset_equal(gold, given, False, TOLERANCE),
        "o": multiset_equal(gold, given, True, TOLERANCE),
        "c": multiset_equal(gold, given, False, TOLERANCE, any_columns=True),
        "s": spider_equal(gold, given, False),
        "t": spider_equal(gold, given, True),
        "b": bird_equal(gold, given),
    }
    assert {rule for rule, equal in found.items() if equal} == set(rules)


def test_values_of_close_pairs_are_not_confused_across_columns() -> None:
    gold: Rows = [(1.0, "a"), (1 + 1e-12, "b")]
    assert multiset_equal(gold, [(1.0, "b"), (1 + 1e-12, "a")], False, TOLERANCE)
    assert not multiset_equal(gold, [(1.0, "b"), (1.0, "b")], False, TOLERANCE)


def test_many_columns_are_searched_and_not_enumerated() -> None:
    rows: Rows = [tuple((i * k) % 97 for k in range(1, 31)) for i in range(50)]
    moved: Rows = [row[::-1] for row in rows]
    assert spider_equal(rows, moved, False)
    assert spider_equal(rows, moved, True)
    alike: Rows = [(1,) * 200] * 50
    assert spider_equal(alike, list(alike), False)
    assert not spider_equal(rows, [*moved[1:], moved[1]], False)


def test_a_search_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.rewards.sql_compare.MOST_CELLS", 1000)
    # Every column has the same values, so that only the rows can tell them apart.
    rows: Rows = [tuple(1 + (i + k * k) % 12 for k in range(12)) for i in range(12)]
    other: Rows = [tuple(1 + (i + k * 5) % 12 for k in range(12)) for i in range(12)]
    with pytest.raises(QueryError, match="too many ways"):
        multiset_equal(rows, other, False, TOLERANCE, any_columns=True)
