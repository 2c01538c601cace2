"""Where the query stands in an answer, and whether it orders: nothing that stands in quotes deceives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rewards.sql_text import find_query, orders, problem_of, tokens, without_distinct


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        ("SELECT 1", "SELECT 1"),
        ("```sql\nSELECT 1\n```", "SELECT 1"),
        ("```SQL\nSELECT 1;\n```\nIt is one.", "SELECT 1;"),
        ("```\nSELECT 1\n```", "SELECT 1"),
        ("```sql SELECT 1```", "SELECT 1"),
        ("```SELECT 1```", "SELECT 1"),
        ("```sqlite\nselect 1", "select 1"),
        ("first ```sql\nSELECT 1\n``` no, ```sql\nSELECT 2\n```", "SELECT 2"),
        ("```sql\nSELECT 1\n```\n```\n| 1 |\n```", "SELECT 1"),
        ("```python\nSELECT 9\n```\n```sql\nSELECT 1\n```\n```text\nSELECT 3\n```", "SELECT 1"),
        ("SELECT 2\n\n```sql\nSELECT 1\n```\nSELECT 3", "SELECT 1"),
        ("```sql\nDELETE FROM t\n```", "DELETE FROM t"),
        ("```sql\n-- the answer\nSELECT 1\n```", "-- the answer\nSELECT 1"),
        ("Here's the query:\nSELECT 1", "SELECT 1"),
        ("Query: SELECT 1", "SELECT 1"),
        ("SQL:   with a as (select 1) select * from a", "with a as (select 1) select * from a"),
        ("With the join we see it.\nSELECT 1", "SELECT 1"),
        ("SELECT 1;\nThat's it.", "SELECT 1;"),
        ("SELECT 1\n\nThat's it.", "SELECT 1"),
        ("SELECT 1;\nSELECT 2;\n", "SELECT 2;"),
        ("SELECT 1\nSELECT 2", "SELECT 2"),
        ("SELECT 1\nUNION ALL\nSELECT 2", "SELECT 1\nUNION ALL\nSELECT 2"),
        ("SELECT a\nFROM (\nSELECT 1 AS a\n\n)", "SELECT a\nFROM (\nSELECT 1 AS a\n\n)"),
        ("WITH a AS (\nSELECT 1\n)\nSELECT * FROM a", "WITH a AS (\nSELECT 1\n)\nSELECT * FROM a"),
        ("WITH a(x) AS (SELECT 1),\nb AS (SELECT 2)\nSELECT * FROM a, b", None),
        ("SELECT ';', \"a;b\" -- ;\nFROM t", "SELECT ';', \"a;b\" -- ;\nFROM t"),
        ("SELECT 'it''s\n\nSELECT 2'", "SELECT 'it''s\n\nSELECT 2'"),
        ("SELECT 1; DROP TABLE t", "SELECT 1; DROP TABLE t"),
        ("VALUES (1), (2)", "VALUES (1), (2)"),
        ("> SELECT 1", "SELECT 1"),
        ("", None),
        ("the answer is 7", None),
        ("I would SELECT some rows", None),
        ("DROP TABLE t", None),
    ],
)  # fmt: skip
def test_the_last_query_is_found(answer: str, query: str | None) -> None:
    expected = answer if answer.startswith("WITH a(x)") else query
    assert find_query(answer) == expected


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT 1", None),
        ("SELECT 1;", None),
        ("SELECT 1; -- done\n /* ; SELECT */", None),
        ("-- x\nWITH a AS (SELECT 1) SELECT * FROM a", None),
        ("SELECT 1; SELECT 2", "several statements"),
        ("SELECT 1;;", "several statements"),
        ("DELETE FROM t", "not a query"),
        ("PRAGMA table_info(t)", "not a query"),
        ("EXPLAIN SELECT 1", "not a query"),
        ("(SELECT 1)", "not a query"),
        ("", "no query"),
        ("-- SELECT 1", "no query"),
        ("SELECT 'a", "does not end"),
    ],
)
def test_only_one_query_is_run(query: str, reason: str | None) -> None:
    found = problem_of(query)
    assert found is None if reason is None else reason in (found or "")


ORDERED = [
    "SELECT a FROM t ORDER BY a",
    "select a from t order\n by a limit 3",
    "SELECT a FROM t ORDER /* x */ BY a",
    "SELECT a FROM t ORDER -- x\n BY a",
    "SELECT 1 UNION SELECT 2 ORDER BY 1",
    "WITH c AS (SELECT 1) SELECT * FROM c ORDER BY 1;",
    "SELECT (SELECT 1) FROM (SELECT 2) ORDER BY (SELECT 3)",
    "SELECT ')' FROM t ORDER BY 1",
    'SELECT "(" FROM t ORDER BY 1',
    "SELECT [(] FROM t ORDER BY 1",
    "SELECT `(` FROM t ORDER BY 1",
    "SELECT 1 -- (\n ORDER BY 1",
    "SELECT 1 /* ( */ ORDER BY 1",
    "SELECT x'28' ORDER BY 1",
    "SELECT 'it''s (' ORDER BY 1",
]
UNORDERED = [
    "SELECT a FROM t",
    "SELECT * FROM (SELECT a FROM t ORDER BY a)",
    "WITH c AS (SELECT 1 ORDER BY 1) SELECT * FROM c",
    "SELECT row_number() OVER (ORDER BY a) FROM t",
    "SELECT sum(a) OVER w FROM t WINDOW w AS (PARTITION BY b ORDER BY a)",
    "SELECT 'ORDER BY a' FROM t",
    'SELECT a AS "ORDER BY a" FROM t',
    "SELECT a FROM t -- ORDER BY a",
    "SELECT a FROM t /* ORDER BY a */",
    "SELECT a FROM t /* ORDER BY a",
    "SELECT [order by] FROM t",
    "SELECT `order by` FROM t",
    'SELECT a "order" , by FROM t',
    "SELECT a FROM t WHERE a IN (SELECT b FROM s ORDER BY b LIMIT 1)",
    "SELECT group_concat(a, ') ORDER BY a') FROM t",
    "SELECT order_by, reorder by_ FROM t",
]


def test_order_is_that_of_the_statement_itself() -> None:
    assert [orders(query) for query in ORDERED] == [True] * len(ORDERED)
    assert [orders(query) for query in UNORDERED] == [False] * len(UNORDERED)


_hidden = st.sampled_from(
    ["'ORDER BY x'", '"order by"', "/* ORDER BY ) ( */ 1", "-- ORDER BY (\n 2", "'it''s ('", "[)]", "`(`"]
)
_terms = st.recursive(_hidden, lambda inner: inner.map(lambda t: f"(SELECT {t} ORDER BY 1)"), max_leaves=4)


@settings(deadline=None)
@given(st.lists(_terms, min_size=1, max_size=6), st.booleans())
def test_whatever_stands_in_a_query_hides_no_order_and_makes_none(terms: list[str], ordered: bool) -> None:
    query = f"SELECT {', '.join(terms)} FROM t" + (" ORDER\tBY 1" if ordered else "")
    assert orders(query) is ordered


@settings(deadline=None)
@given(st.text() | st.text("SELECT WITH()'\"`[];-*/\n", max_size=200))
def test_no_text_raises_and_tokens_cover_it(text: str) -> None:
    found = list(tokens(text))
    assert all(text.startswith(token.text, token.start) for token in found)
    query = find_query(text)
    assert query is None or query in text
    assert problem_of(text) is None or problem_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 60_000, "'" * 60_001, "SELECT\n" * 9_000, "WITH a\n" * 9_000, "`" * 60_000, "/*" * 30_000,
        "\n" * 60_000,
    ],
)  # fmt: skip
def test_a_long_hostile_answer_is_read_to_its_end(text: str) -> None:
    assert len(find_query(text) or "") <= len(text)
    assert problem_of(text) is None or problem_of(text)


def test_distinct_is_taken_out_as_a_keyword_alone() -> None:
    query = "SELECT DISTINCT a, 'distinct', \"DISTINCT\" FROM t WHERE count(distinct b) -- distinct"
    assert without_distinct(query) == (
        "SELECT  a, 'distinct', \"DISTINCT\" FROM t WHERE count( b) -- distinct"
    )
