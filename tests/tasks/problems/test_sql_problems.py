"""Generated Text-to-SQL: gold queries that run, schemas that are apart, levels that keep their promise."""

from __future__ import annotations

import json
import random
import re
import sqlite3
from collections import Counter
from functools import cache
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from params.base import BadInput, Choice
from params.load import compose
from params.task import Task
from tasks.artefacts.tables import PROBLEMS
from tasks.policy.load import load_tokenizer
from tasks.prepare import model_sources
from tasks.problems import sql, sql_schema
from tasks.problems.sql_synthetic import databases
from tasks.problems.sql_synthetic.phrases import condition

SMALL = sql.Config(train_databases=8, held_out_databases=4)


def task(train: int = 40, held_out: int = 20) -> Task:
    return Task(problems=Choice(name="sql"), train_count=train, held_out_count=held_out)


def gold(row: dict[str, str]) -> tuple[str, str]:
    answer = json.loads(row["answer"])
    return answer["database"], answer["query"]


@cache
def many(levels: tuple[int, ...] = (1, 2, 3, 4, 5)) -> list[dict[str, str]]:
    config = sql.Config(levels=levels)
    train, held_out = sql.read(config, task(400, 100), 3)
    rows: list[dict[str, str]] = train.to_pylist() + held_out.to_pylist()
    return rows


def written(
    folder: Path, config: sql.Config, seed: int
) -> tuple[pa.Table, pa.Table, dict[str, dict[str, str]]]:
    folder.mkdir()
    train, held_out = sql.write(config, task(), seed, folder)
    return train, held_out, json.loads((folder / "databases.json").read_text())


@settings(max_examples=12, deadline=None)
@example((3,), 1, 75060)  # tables of which chance left out every column but the keys
@example((4,), 1, 75060)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=5, unique=True).map(tuple),
    st.integers(1, 3),
    st.integers(0, 2**31),
)
def test_gold_queries_run_on_their_read_only_files(
    tmp_path_factory: pytest.TempPathFactory, levels: tuple[int, ...], tables: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("sql") / "out"
    config = SMALL.model_copy(update={"levels": levels, "tables": tables if max(levels) < 3 else 3})
    train, held_out, listed = written(folder, config, seed)
    assert train.schema.equals(PROBLEMS)
    assert (train.num_rows, held_out.num_rows) == (40, 20)
    rows = train.to_pylist() + held_out.to_pylist()
    assert Counter(row["level"] for row in train.to_pylist()).keys() == set(levels)
    assert len({row["question"] for row in rows}) == len({row["problem_id"] for row in rows}) == 60
    assert {gold(row)[0] for row in rows} <= set(listed)
    for row in rows:
        name, query = gold(row)
        found = sql_schema.connect(folder / listed[name]["path"])
        result = found.execute(query).fetchall()
        assert result, row
        assert any(value is not None for line in result for value in line), row
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            found.execute("CREATE TABLE more (a)")
        found.close()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_training_and_held_out_schemas_are_apart(seed: int) -> None:
    train, held_out = sql._databases(SMALL, seed)
    assert not {each.database.domain for each in train} & {each.database.domain for each in held_out}
    sides = [
        {
            tuple((table.name, tuple(c.name for c in table.columns)) for table in one.database.tables)
            for one in side
        }
        for side in (train, held_out)
    ]
    assert not sides[0] & sides[1]
    tables = [{table for schema in side for table in schema} for side in sides]
    assert not tables[0] & tables[1]


def test_equal_seeds_give_equal_bytes_and_others_do_not(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("a", "b", "c")]
    one, two, other = (written(place, SMALL, seed) for place, seed in zip(places, (4, 4, 5), strict=True))
    assert one[0].equals(two[0])
    assert one[1].equals(two[1])
    assert one[2] == two[2]
    for entry in one[2].values():
        data = (places[0] / entry["path"]).read_bytes()
        assert data == (places[1] / entry["path"]).read_bytes()
        assert len(data) == int(entry["bytes"])
    assert not one[0].equals(other[0])
    assert {e["sha256"] for e in one[2].values()}.isdisjoint(e["sha256"] for e in other[2].values())


PROMISES = {
    1: r"SELECT (DISTINCT )?[^()]+ FROM [^()]+( WHERE .*)?",
    2: r"SELECT (COUNT|AVG|SUM|MIN|MAX)\(.*",
    3: r".*( JOIN | GROUP BY | ORDER BY ).*",
    4: r".*\(SELECT .*",
    5: r".* (UNION|INTERSECT|EXCEPT) SELECT .*",
}


def test_levels_are_what_they_promise() -> None:
    seen: Counter[int] = Counter()
    for row in many():
        level, query = int(row["level"]), gold(row)[1]
        seen[level] += 1
        assert re.fullmatch(PROMISES[level], query), (level, query)
        if level < 3:
            assert not re.search(r" JOIN | GROUP BY |\(SELECT|UNION|INTERSECT|EXCEPT", query)
        if level < 5:
            assert not re.search(r" (UNION|INTERSECT|EXCEPT) ", query)
    assert seen == dict.fromkeys(range(1, 6), 100)


def test_every_condition_of_level_one_matters() -> None:
    """Without its condition, a query gives other rows."""
    checked = 0
    opened = {each.database.id: each.database for side in sql._databases(sql.Config(), 3) for each in side}
    for row in many():
        name, query = gold(row)
        if row["level"] == 1 and " WHERE " in query:
            connection = opened[name].connection
            plain = connection.execute(query.partition(" WHERE ")[0]).fetchall()
            assert sorted(map(repr, plain)) != sorted(map(repr, connection.execute(query).fetchall()))
            checked += 1
    assert checked > 50


def test_order_is_asked_for_only_where_there_are_no_ties() -> None:
    opened = {each.database.id: each.database for side in sql._databases(sql.Config(), 3) for each in side}
    checked = 0
    for row in many((3,)):
        name, query = gold(row)
        found = re.fullmatch(
            r"SELECT \S+ (FROM \S+(?: WHERE .*)?) ORDER BY (\S+)( DESC)?(?: LIMIT (\d+))?", query
        )
        if found and "COUNT" not in query and "JOIN" not in query:
            ranked = [
                value
                for (value,) in opened[name].connection.execute(
                    f"SELECT {found[2]} {found[1]} ORDER BY {found[2]}{found[3] or ''}"
                )
            ]
            counted = ranked[: int(found[4]) + 1] if found[4] else ranked
            assert len(set(counted)) == len(counted)
            checked += 1
    assert checked > 30


def test_a_prompt_holds_its_tables_within_its_room_and_does_not_tell_which_are_needed() -> None:
    schemas: dict[str, set[str]] = {}
    opened = {each.database.id: each.database for side in sql._databases(sql.Config(), 3) for each in side}
    for row in many():
        schema, _, question = row["question"].partition("\n\nQuestion: ")
        name, query = gold(row)
        assert question
        assert sql_schema.tokens(schema) <= 256
        shown = {found.strip('"').lower() for found in re.findall(r'CREATE TABLE ("[^"]+"|\S+) ', schema)}
        assert sql_schema.tables_read(opened[name].connection, query) <= shown
        schemas.setdefault(name, set()).add(schema)
    assert {len(found) for found in schemas.values()} == {1}


@given(st.integers(10, 600))
@settings(max_examples=40, deadline=None)
def test_rows_go_before_tables_and_tables_from_the_end(budget: int) -> None:
    database = databases.make("cinema", 1, 3, 7)
    found = sql_schema.read_tables(database.connection, 3)
    text, shown = sql_schema.prompt_schema(found, 3, budget)
    assert sql_schema.tokens(text) <= budget
    assert [table.name.lower() in shown for table in found] == sorted(
        (table.name.lower() in shown for table in found), reverse=True
    )
    if "--" in text:
        assert len(shown) == len(found)


@given(st.text(max_size=60), st.text(max_size=60))
def test_the_estimate_counts_every_part(first: str, second: str) -> None:
    both = sql_schema.tokens(first + second)
    assert both <= sql_schema.tokens(first) + sql_schema.tokens(second)
    assert both >= 0
    assert sql_schema.tokens("SELECT name") == 4
    assert sql_schema.tokens("é") == 2


def test_names_are_written_in_several_ways_and_quoted_where_they_must_be() -> None:
    names = [
        column.name
        for number in range(40)
        for table in databases.make("shop", number, 3, number).tables
        for column in table.columns
    ]
    for pattern in (
        r"[a-z]+_[a-z]+",
        r"[a-z]+[A-Z][a-z]+",
        r"([A-Z][a-z]+){2}",
        r"[A-Z]+_[A-Z]+",
        r"\w+ \w+",
    ):
        assert any(re.fullmatch(pattern, name) for name in names), pattern
    assert sql_schema.quoted("order") == '"order"'
    assert sql_schema.quoted('a "b"') == '"a ""b"""'
    assert sql_schema.quoted("order_id") == "order_id"


@pytest.mark.parametrize("domain", databases.domains())
def test_every_domain_makes_databases_with_keys_and_nulls(domain: str) -> None:
    nulls = linked = 0
    for number in range(6):
        database = databases.make(domain, number, 3, number)
        assert database.connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert database.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        linked += len(database.links())
        for table in database.tables:
            assert len(table.facts) >= 1
            assert len(set(table.values(table.key))) == len(table.rows)
            nulls += sum(value is None for row in table.rows for value in row)
    assert linked
    assert nulls


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(databases.domains()), st.integers(0, 2**31))
def test_conditions_say_the_value_that_they_compare_with(domain: str, seed: int) -> None:
    rng = random.Random(seed)
    database = databases.make(domain, 1, 3, seed)
    for table in database.tables:
        found = condition(rng, table)
        if found is None or "NULL" in found.sql:
            continue
        database.connection.execute(f"SELECT 1 FROM {table.sql} WHERE {found.sql}")
        for value in re.findall(r"'([^']+)'", found.sql):
            assert value.removesuffix("-%") in found.words


def test_a_problem_needs_room_for_its_tables() -> None:
    with pytest.raises(
        BadInput, match=r"level 3 has only \d+ distinct problems .* in 30 tokens; expected 40"
    ):
        sql.read(SMALL.model_copy(update={"schema_tokens": 30, "levels": (3,)}), task(), 0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"levels": [1, 6]}, "less than or equal to 5, got 6"),
        ({"levels": [2, 2]}, "a level is named twice"),
        ({"levls": [1]}, "task.problems.levls: unknown key; did you mean 'levels'?"),
    ],
)
def test_bad_options(options: dict[str, object], expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        Choice(name="sql", **options).resolve(sql.Config, "task.problems")
    assert expected in str(caught.value)


def test_a_person_reads_the_query() -> None:
    row = many()[0]
    assert sql.shown_answer(row["answer"]) == gold(row)[1]


def test_the_presets_of_the_three_tasks() -> None:
    made = compose("smollm2-135m", "sql", "grpo")
    assert made.task.problems.resolve(sql.Config, "task.problems").levels
    for name in ("spider", "bird"):
        chosen = compose("smollm2-135m", name, "grpo", ["task.problems.folder=x"]).task
        assert chosen.problems.name == name
        assert chosen.reward.model_extra == {"comparison": name}


@pytest.mark.long
def test_the_estimate_is_an_upper_bound_of_what_smollm2_counts(tmp_path: Path) -> None:
    params = compose("smollm2-135m", "sql", "grpo")
    model_sources.fetch(params, tmp_path)
    tokenizer = load_tokenizer(tmp_path, params)
    checked = 0
    for config in (sql.Config(), sql.Config(example_rows=10, schema_tokens=2000), sql.Config(tables=1)):
        for side in sql._databases(config, 11):
            for one in side:
                counted = len(tokenizer.encode(one.schema, add_special_tokens=False))
                assert counted <= sql_schema.tokens(one.schema) <= 2 * counted
                checked += 1
    assert checked == 144


@pytest.mark.parametrize("level", [0, 1, 2, 3, 4])
def test_a_spoilt_query_is_another_one_that_runs(tmp_path: Path, level: int) -> None:
    config = SMALL.model_copy(update={"levels": (level,)})
    train, _, listed = written(tmp_path / "out", config, 1)
    rng = random.Random(0)
    for database, query in map(gold, train.to_pylist()):
        wrong = sql.spoil(query, rng)
        assert wrong != query
        connection = sqlite3.connect(tmp_path / "out" / listed[database]["path"])
        connection.execute(wrong).fetchall()
        connection.close()


def test_questions_of_level_0_may_ask_for_one_column(tmp_path: Path) -> None:
    for most in (1, 2):
        config = sql.Config(levels=(0,), tables=1, train_databases=6, split="questions", columns=most)
        train, _, _ = written(tmp_path / f"out-{most}", config, 0)
        asked = {gold(row)[1].partition(" FROM ")[0].count(",") + 1 for row in train.to_pylist()}
        assert asked == set(range(1, most + 1))


def test_a_split_by_questions_shares_the_databases_and_no_question(tmp_path: Path) -> None:
    config = sql.Config(levels=(0,), tables=1, train_databases=3, split="questions")
    train, held_out, listed = written(tmp_path / "out", config, 0)
    asked, aside = (set(table["question"].to_pylist()) for table in (train, held_out))
    assert (len(asked), len(aside), len(asked & aside)) == (40, 20, 0)
    used = {gold(row)[0] for table in (train, held_out) for row in table.to_pylist()}
    assert used == set(listed)
    assert len(used) == 3
    assert {gold(row)[0] for row in held_out.to_pylist()} == used
    assert all(" WHERE " not in gold(row)[1] for row in train.to_pylist())
