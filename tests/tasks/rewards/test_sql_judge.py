"""SQL answers through the public judge: what is right, what is wrong, and what is the judge's own failure."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from params.base import BadInput, Choice
from tasks.rewards.base import Verdict
from tasks.rewards.judge import Judge
from tasks.rewards.testing import check, verdicts
from tests.tasks.rewards.sql_case import gold, make_root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(
        tmp_path_factory.mktemp("a folder?with#odd%20signs") / "problems", ("town", "odd ?#%'name")
    )


@pytest.fixture(scope="module")
def judge(root: Path) -> Iterator[Judge]:
    made = Judge(Choice(name="sql"), workers=1, root=root)
    yield made
    made.close()


CASES = [
    (
        "SELECT name FROM city WHERE country = 'X'",
        "SELECT c.name AS n FROM city c WHERE c.country IN ('X')",
        1,
    ),
    (
        "SELECT name FROM city WHERE country = 'X'",
        "SELECT name FROM city WHERE id IN (2, 1) ORDER BY id DESC",
        1,
    ),
    ("SELECT name FROM city ORDER BY id", "SELECT name FROM city ORDER BY id DESC", 0),
    ("SELECT name FROM city ORDER BY id", "SELECT name FROM (SELECT * FROM city ORDER BY id)", 1),
    ("SELECT name FROM city", "SELECT DISTINCT name FROM city", 0),
    ("SELECT count(*) FROM city", "SELECT 5.0", 1),
    ("SELECT count(*) FROM city", "SELECT '5'", 0),
    ("SELECT sum(cost) FROM visit WHERE id IN (2, 3)", "SELECT 0.3", 1),
    ("SELECT avg(cost) FROM visit", "SELECT sum(cost) / count(cost) FROM visit", 1),
    ("SELECT name, country FROM city", "SELECT country, name FROM city", 0),
    ("SELECT founded FROM city WHERE id = 1", "SELECT date('1900-01-01')", 1),
    ("SELECT founded FROM city WHERE id = 1", "SELECT datetime('1900-01-01')", 0),
    ("SELECT note FROM visit WHERE id = 1", "SELECT x'00FF'", 1),
    ("SELECT country FROM city WHERE id = 4", "SELECT NULL", 1),
    ("SELECT 1 WHERE 0", "SELECT name FROM city WHERE 1 = 2", 1),
    ("SELECT 1 WHERE 0", "SELECT name, id FROM city WHERE 1 = 2", 0),
    ("SELECT CAST(x'c3ff41' AS TEXT)", "SELECT CAST(x'c3ff41' AS TEXT)", 1),
    ("SELECT CAST(x'c3ff41' AS TEXT)", "SELECT CAST(x'c3fe41' AS TEXT)", 0),
    ("SELECT * FROM large", "SELECT * FROM city WHERE population >= 2000", 1),
    ("SELECT value FROM json_each('[1, 2]')", "VALUES (2), (1)", 1),
    ("WITH city AS (SELECT 1 AS x) SELECT x FROM city", "SELECT 1", 1),
    ("SELECT name FROM city", "I do not know.", 0),
]


def test_answers_are_judged_by_their_results(judge: Judge) -> None:
    found = judge.judge([(gold(right), f"```sql\n{answer}\n```") for right, answer, _ in CASES])
    assert [(case[0], case[1], verdict.reward) for case, verdict in zip(CASES, found, strict=True)] == [
        (right, answer, float(expected)) for right, answer, expected in CASES
    ]
    again = judge.judge([(gold(right), f"```sql\n{answer}\n```") for right, answer, _ in CASES])
    assert again == found


def test_what_is_wrong_with_an_answer_is_said(judge: Judge) -> None:
    answers = {
        "SELECT nope FROM city": "no such column: nope",
        "SELECT 1 FROM nowhere": "no such table: nowhere",
        "SELECT 1; SELECT 2": "several statements; expected one",
        "```sql\nDROP TABLE city\n```": "not a query; expected SELECT, WITH or VALUES",
        "SELECT random()": "not authorized to use function: random",
        "seven": "no query in the answer",
        "SELECT '" + "a" * 30_000 + "'": "a query of more than 20000 characters",
    }
    found = judge.judge([(gold("SELECT 1"), answer) for answer in answers])
    assert found == [Verdict(0.0, reason) for reason in answers.values()]


def test_what_is_wrong_with_the_judge_is_no_zero(judge: Judge, root: Path) -> None:
    rights = {
        gold("SELECT nope FROM city"): "the gold query fails on database town: no such column: nope",
        gold("SELECT 1", "nowhere"): "database nowhere: not in databases.json",
        "SELECT 1": "cannot read the right answer: 'SELECT 1' is not JSON",
        '{"query": "SELECT 1"}': "cannot read the right answer: its 'database' is missing or no text",
        "[1]": "cannot read the right answer: expected an object with database and query",
    }
    found = judge.judge([(right, "SELECT 1") for right in rights])
    assert found == [Verdict(None, reason) for reason in rights.values()]
    assert judge.judge([(gold("SELECT 1", "odd ?#%'name"), "SELECT 1")]) == [Verdict(1.0)]


def test_without_a_directory_of_problems_nothing_is_judged() -> None:
    (verdict,) = verdicts("sql", [(gold("SELECT 1"), "SELECT 1")])
    assert verdict == Verdict(None, "no databases: the judge was given no directory of problems")


def damaged_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def damaged_inside(path: Path) -> None:
    """Pages of tables overwritten, and the list brought up to date."""
    content = bytearray(path.read_bytes())
    content[4096 : 4 * 4096] = b"\xff" * (3 * 4096)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "options", "reason"),
    [
        (Path.unlink, {}, "No such file"),
        (lambda path: path.write_bytes(b""), {}, "has 0 bytes; expected"),
        (damaged_bytes, {}, "is not the file that databases.json lists"),
        (lambda path: path.write_bytes(b"x" * path.stat().st_size), {"verify_mib": 1}, "is not the file"),
        (lambda path: (path.parent / "databases.json").write_text("{"), {}, "is not JSON"),
        (lambda path: (path.parent / "databases.json").write_text('{"town": 1}'), {}, "expected path"),
        (lambda path: (path.parent / "databases.json").unlink(), {}, "No such file"),
    ],
)  # fmt: skip
def test_a_database_that_is_missing_or_damaged_is_no_zero(
    harm: Callable[[Path], Any], options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    root = make_root(tmp_path / "problems")
    harm(root / "town.sqlite")
    (verdict,) = verdicts("sql", [(gold("SELECT 1"), "SELECT 1")], options, root)
    assert verdict.reward is None
    assert reason in (verdict.error or "")


def test_damage_that_shows_under_the_answer_is_no_zero(tmp_path: Path) -> None:
    import hashlib

    root = make_root(tmp_path / "problems")
    path = root / "town.sqlite"
    damaged_inside(path)
    entry = {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (root / "databases.json").write_text(json.dumps({"town": {**entry, "bytes": path.stat().st_size}}))
    (verdict,) = verdicts("sql", [(gold("SELECT 1"), "SELECT * FROM city")], root=root)
    assert verdict.reward is None
    assert "malformed" in (verdict.error or "")
    path.write_bytes(b"no database" * 100)
    entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (root / "databases.json").write_text(json.dumps({"town": {**entry, "bytes": path.stat().st_size}}))
    (verdict,) = verdicts("sql", [(gold("SELECT 1"), "SELECT 1")], root=root)
    assert verdict == Verdict(None, "database town: file is not a database")


def test_limits_are_the_answers_fault_and_the_gold_querys_the_judges(root: Path) -> None:
    many = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r LIMIT 5000) SELECT x FROM r"
    options = {"max_rows": 1000}
    check("sql", [(gold("SELECT 1"), many, 0.0), (gold(many), "SELECT 1", None)], options, root)
    said = [verdict.error for verdict in verdicts("sql", [(gold("SELECT 1"), many)], options, root)]
    assert said == ["more than 1000 rows"]
    said = [v.error for v in verdicts("sql", [(gold("SELECT 1"), many)], {"max_steps": 10_000}, root)]
    assert said == ["more than 10000 steps"]
    wide = "SELECT hex(zeroblob(400000)) FROM city, visit"
    said = [v.error for v in verdicts("sql", [(gold("SELECT 1"), wide)], {"result_mib": 4}, root)]
    assert said == ["a result of more than 4 MiB"]


def test_spider_and_bird_judge_by_their_own_rules(root: Path) -> None:
    swapped = (gold("SELECT name, id FROM city"), "SELECT id, name FROM city")
    twice = (gold("SELECT country FROM city WHERE id < 3"), "SELECT DISTINCT country FROM city WHERE id < 3")
    nested = (
        gold("SELECT x FROM (SELECT id AS x FROM city ORDER BY id)"),
        "SELECT id FROM city ORDER BY id DESC",
    )
    close = (gold("SELECT 0.1 + 0.2"), "SELECT 0.3")
    spaced = (gold("SELECT id FROM city WHERE id >= 4"), "SELECT id FROM city WHERE id > = 4")
    pairs = [swapped, twice, nested, close, spaced]
    rewards = {
        name: [verdict.reward for verdict in verdicts("sql", pairs, options, root)]
        for name, options in {
            "multiset": {},
            "columns": {"columns": "any_order"},
            "spider": {"comparison": "spider"},
            "distinct": {"comparison": "spider", "keep_distinct": True},
            "bird": {"comparison": "bird"},
        }.items()
    }
    assert rewards == {
        "multiset": [0, 0, 1, 1, 0],
        "columns": [1, 0, 1, 1, 0],
        "spider": [1, 1, 0, 0, 1],
        "distinct": [1, 0, 0, 0, 1],
        "bird": [0, 1, 1, 0, 0],
    }


def test_more_databases_than_are_open_at_once(tmp_path: Path) -> None:
    names = tuple(f"town{i}" for i in range(20))
    root = make_root(tmp_path / "problems", names)
    cases = [(gold("SELECT count(*) FROM city", name), "SELECT 5", 1.0) for name in names * 2]
    check("sql", [*cases, (gold("SELECT 1", "town0"), "SELECT 2", 0.0)], root=root)


def test_failing_queries_keep_no_database_open(tmp_path: Path) -> None:
    names = tuple(f"town{i}" for i in range(100))
    root = make_root(tmp_path / "problems", names)
    check("sql", [(gold("SELECT 1", name), "SELECT nothing FROM city", 0.0) for name in names * 2], root=root)


def test_results_do_not_outgrow_the_cache(root: Path) -> None:
    wide = "SELECT hex(zeroblob({})), id FROM city"
    cases = [(gold(wide.format(200_000 + i)), wide.format(200_000 + i), 1.0) for i in range(60)]
    check("sql", cases, {"cache_mib": 8, "memory_mib": 300}, root)


def test_a_wal_database_without_its_log_is_read(tmp_path: Path) -> None:
    import hashlib

    root = make_root(tmp_path / "problems")
    path = root / "town.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    listed = {"town": {"path": "town.sqlite", "sha256": digest, "bytes": path.stat().st_size}}
    (root / "databases.json").write_text(json.dumps(listed))
    check("sql", [(gold("SELECT count(*) FROM city"), "SELECT 5", 1.0)], root=root)
    assert sorted(p.name for p in root.iterdir()) == ["databases.json", "town.sqlite"]


def test_bad_options_are_refused() -> None:
    with pytest.raises(BadInput, match="timeout_seconds must exceed twice"):
        Judge(Choice.model_validate({"name": "sql", "timeout_seconds": 5, "query_seconds": 3}))
    with pytest.raises(BadInput, match=r"task\.reward\.comparision: unknown key; did you mean 'comparison'"):
        Judge(Choice.model_validate({"name": "sql", "comparision": "bird"}))
