"""Spider and BIRD in their published layouts: what is read, what is left out, what is refused."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from params.base import BadInput, Choice
from params.load import compose
from params.task import Task
from tasks.artefacts.digests import file_digest
from tasks.problems import bird, spider, sql_schema

PETS = """
CREATE TABLE owner (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE pet (pet_id INTEGER PRIMARY KEY, "Pet Name" TEXT, owner_id INTEGER, born DATE);
INSERT INTO owner VALUES (1, 'Ann'), (2, NULL);
INSERT INTO pet VALUES (1, 'Rex', 1, '2020-01-02'), (2, 'Tom', 2, '2021-03-04');
"""
CITIES = """
CREATE TABLE city (name TEXT, people INTEGER);
INSERT INTO city VALUES ('Oslo', 700000), ('Bergen', 290000);
"""


def task(train: int = 3, held_out: int = 2) -> Task:
    return Task(problems=Choice(name="spider"), train_count=train, held_out_count=held_out)


def database(folder: Path, name: str, script: str) -> None:
    path = folder / name / f"{name}.sqlite"
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def described(name: str, tables: dict[str, list[str]], keys: list[list[int]]) -> dict[str, Any]:
    columns = [[-1, "*"], *([place, c] for place, found in enumerate(tables.values()) for c in found)]
    return {
        "db_id": name,
        "table_names_original": list(tables),
        "column_names_original": columns,
        "foreign_keys": keys,
        "primary_keys": [1],
    }


PETS_TABLES = described(
    "pets", {"owner": ["id", "name"], "pet": ["pet_id", "Pet Name", "owner_id", "born"]}, [[5, 1]]
)
CITY_TABLES = described("cities", {"city": ["name", "people"]}, [])
TRAIN = [
    ("Who owns Rex?", "SELECT name FROM owner JOIN pet ON id = owner_id WHERE \"Pet Name\" = 'Rex'"),
    ("How many pets are there?", "SELECT count(*) FROM pet;"),
    ("how many  pets are there?", "SELECT count(*) FROM pet"),
    ("List the pets.", 'SELECT "Pet Name" FROM pet'),
    ("Which are the wolves?", "SELECT name FROM wolf"),
]
DEV = [("Which cities are there?", "SELECT name FROM city"), ("How many?", "SELECT count(*) FROM city")]


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def spider_folder(root: Path) -> spider.Config:
    database(root / "database", "pets", PETS)
    database(root / "database", "cities", CITIES)
    dump(root / "tables.json", [PETS_TABLES, CITY_TABLES])
    rows = [{"db_id": "pets", "question": q, "query": query, "sql": {}} for q, query in TRAIN]
    dump(root / "train_spider.json", rows[:3])
    dump(root / "train_others.json", rows[3:])
    dump(root / "dev.json", [{"db_id": "cities", "question": q, "query": query} for q, query in DEV])
    return spider.Config(folder=str(root))


def bird_folder(root: Path) -> bird.Config:
    database(root / "train" / "train_databases", "pets", PETS)
    database(root / "dev" / "dev_databases", "cities", CITIES)
    dump(root / "train" / "train_tables.json", [PETS_TABLES])
    dump(root / "dev" / "dev_tables.json", [CITY_TABLES])
    dump(
        root / "train" / "train.json",
        [{"db_id": "pets", "question": q, "SQL": query, "evidence": ""} for q, query in TRAIN],
    )
    dump(
        root / "dev" / "dev.json",
        [
            {
                "question_id": number,
                "db_id": "cities",
                "question": question,
                "SQL": query,
                "evidence": "big refers to\npeople > 500000",
                "difficulty": ["simple", "challenging"][number],
            }
            for number, (question, query) in enumerate(DEV)
        ],
    )
    return bird.Config(folder=str(root))


def queries(table: pa.Table) -> set[str]:
    return {json.loads(answer)["query"] for answer in table["answer"].to_pylist()}


def test_spider_is_read_where_it_lies(tmp_path: Path) -> None:
    config = spider_folder(tmp_path / "spider")
    out = tmp_path / "out"
    out.mkdir()
    train, held_out = spider.write(config, task(), 0, out)
    assert queries(train) == {TRAIN[0][1], TRAIN[1][1], TRAIN[3][1]}
    assert queries(held_out) == {query for _, query in DEV}
    assert spider.read(config, task(), 0)[0].equals(train)
    listed = json.loads((out / "databases.json").read_text())
    assert set(listed) == {"pets", "cities"}
    for name, entry in listed.items():
        path = tmp_path / "spider" / "database" / name / f"{name}.sqlite"
        assert entry == {"path": str(path), "sha256": file_digest(path), "bytes": path.stat().st_size}
    assert not (out / "databases").exists()
    assert json.loads((out / "left_out.json").read_text()) == {
        "train": {"schema_too_long": 0, "query_refused": 1},
        "held_out": {"schema_too_long": 0, "query_refused": 0},
    }


def test_a_query_that_its_database_refuses_is_told_by_its_line_where_that_is_asked_for(
    tmp_path: Path,
) -> None:
    config = spider_folder(tmp_path).model_copy(update={"on_bad_gold": "error"})
    with pytest.raises(
        BadInput, match=r"train_others\.json: row 2: \w+ refuses 'query' \(.*\); expected a query"
    ):
        spider.read(config, task(), 0)


def test_a_prompt_shows_tables_keys_and_rows(tmp_path: Path) -> None:
    train, _ = spider.read(spider_folder(tmp_path), task(), 0)
    row = next(row for row in train.to_pylist() if row["question"].endswith("Who owns Rex?"))
    assert row["question"].splitlines() == [
        "CREATE TABLE owner (id INTEGER PRIMARY KEY, name TEXT);",
        "-- 1, Ann",
        "-- 2, NULL",
        'CREATE TABLE pet (pet_id INTEGER PRIMARY KEY, "Pet Name" TEXT, '
        "owner_id INTEGER REFERENCES owner(id), born DATE);",
        "-- 1, Rex, 1, 2020-01-02",
        "-- 2, Tom, 2, 2021-03-04",
        "",
        "Question: Who owns Rex?",
    ]
    assert row["source"] == "spider"


def test_bird_has_evidence_and_levels(tmp_path: Path) -> None:
    config = bird_folder(tmp_path)
    train, held_out = bird.read(config, task(), 0)
    assert train.num_rows == 3
    by_level = {row["level"]: row["question"] for row in held_out.to_pylist()}
    assert by_level[1].endswith("Question: Which cities are there?\nHint: big refers to people > 500000")
    assert set(by_level) == {1, 3}
    plain = bird.read(config.model_copy(update={"evidence": False}), task(), 0)[1]
    assert not any("Hint" in question for question in plain["question"].to_pylist())


def test_every_file_belongs_into_the_fingerprint(tmp_path: Path) -> None:
    config = spider_folder(tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in spider.files(config)}
    assert names == {
        *("tables.json", "train_spider.json", "train_others.json", "dev.json"),
        *("database/pets/pets.sqlite", "database/cities/cities.sqlite"),
    }
    only = config.model_copy(update={"databases": ("cities",)})
    assert "database/pets/pets.sqlite" not in {str(p.relative_to(tmp_path)) for p in spider.files(only)}
    assert len(bird.files(bird_folder(tmp_path / "bird"))) == 6


def test_what_does_not_fit_is_left_out(tmp_path: Path) -> None:
    config = spider_folder(tmp_path).model_copy(update={"schema_tokens": 16})
    with pytest.raises(BadInput, match=r"spider: 0 distinct problems, without 4 whose tables do not fit .*"):
        spider.read(config, task(), 0)
    other = config.model_copy(update={"train": ("dev.json",), "held_out": ("train_spider.json",)})
    with pytest.raises(BadInput, match=r"without 2 whose .* 0 whose .*; expected 2 \(task.train_count\)"):
        spider.read(other, task(2, 2), 0)


def break_(folder: Path, name: str, change: Any) -> None:
    path = folder / name
    dump(path, change(json.loads(path.read_text())))


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("dev.json", lambda rows: {"a": 1}, "dev.json: expected a list of objects, found dict"),
        ("dev.json", lambda rows: [3], "dev.json: row 1: expected an object, found int"),
        ("dev.json", lambda rows: [{**rows[0], "query": 3}], "dev.json: row 1: 'query' is 3; expected text"),
        (
            "dev.json",
            lambda rows: [{"db_id": "cities", "question": "a", "querry": "b"}],
            "dev.json: row 1: no 'query'; did you mean 'querry'?",
        ),
        (
            "dev.json",
            lambda rows: [{**rows[0], "db_id": "citys"}],
            "row 1: no database 'citys' in",
        ),
        (
            "tables.json",
            lambda rows: [{"db_id": "pets"}],
            "tables.json: row 1: expected lists: table_names_original",
        ),
        (
            "tables.json",
            lambda rows: [{**rows[0], "foreign_keys": [[1, 99]]}],
            "tables.json: row 1: a column or foreign key points to nothing",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, name: str, change: Any, expected: str) -> None:
    config = spider_folder(tmp_path)
    break_(tmp_path, name, change)
    with pytest.raises(BadInput) as caught:
        spider.read(config, task(), 0)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_files_that_are_no_databases(tmp_path: Path) -> None:
    config = spider_folder(tmp_path)
    path = tmp_path / "database" / "cities" / "cities.sqlite"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 40)
    with pytest.raises(BadInput, match=r"cities\.sqlite: not a database that SQLite reads"):
        spider.read(config, task(), 0)
    path.unlink()
    with pytest.raises(
        BadInput, match=r"dev\.json: row 1: .*cities\.sqlite: no such file; expected the database"
    ):
        spider.read(config, task(), 0)
    (tmp_path / "tables.json").unlink()
    with pytest.raises(BadInput, match=r"tables\.json: no such file \(task\.problems\.folder\)"):
        spider.read(config, task(), 0)
    with pytest.raises(BadInput, match=r"train\.json: no such file"):
        bird.files(bird.Config(folder=str(tmp_path / "gone")))


def test_text_that_is_not_utf8_and_empty_or_wide_databases(tmp_path: Path) -> None:
    values = "(CAST(x'ff41' AS TEXT)), (x'00ff'), (printf('%.200c', 'y'))"
    script = f"CREATE TABLE a (x); INSERT INTO a VALUES {values};"
    database(tmp_path, "odd", script)
    connection = sql_schema.connect(tmp_path / "odd" / "odd.sqlite")
    (table,) = sql_schema.read_tables(connection, 5)
    assert table.create == "CREATE TABLE a (x);"
    assert table.rows[:2] == ("-- \ufffdA", "-- <2 bytes>")
    assert len(table.rows[2]) == 3 + sql_schema.LONGEST_CELL
    assert sql_schema.tables_read(connection, "SELECT count(*) FROM a AS b") == {"a"}
    assert sql_schema.tables_read(connection, "WITH c AS (SELECT x FROM a) SELECT * FROM c") == {"a"}
    connection.close()


def test_the_presets_name_their_benchmarks() -> None:
    for name, config in (("spider", spider.Config), ("bird", bird.Config)):
        chosen = compose("smollm2-135m", name, "grpo", ["problems.folder=x"]).task
        assert chosen.problems.resolve(config, "task.problems").folder == "x"
        assert chosen.reward.model_extra == {"comparison": name}
