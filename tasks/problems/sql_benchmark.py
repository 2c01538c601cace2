"""What Spider and BIRD have in common: files of questions, and one folder per database, read in place."""

from __future__ import annotations

import json
import sqlite3
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from params.base import BadInput, nearest
from params.task import Task
from tasks.artefacts.artefact import write_json
from tasks.core import seeds
from tasks.problems import sql_rows, sql_schema
from tasks.problems.row_files import cell_text, cell_texts, rows_of
from tasks.problems.rows import columns_text, table
from tasks.problems.sql_rows import Prompt
from tasks.problems.sql_schema import ForeignKeys


@dataclass(frozen=True)
class Split:
    """The files of one split: its questions, the folder of its databases, and what describes their tables."""

    questions: tuple[Path, ...]
    databases: Path
    tables: Path


class Benchmark(Prompt):
    """What both sources' ``Config`` begins with: its options, and how the benchmark is laid out."""

    SOURCE: ClassVar[str]
    QUERY: ClassVar[str]
    """The key of a row's gold query."""

    folder: str
    """The benchmark's folder, as it is published."""
    solution: str | None = None
    """Key of a row's demonstrations, a text or a list of texts; null: the gold query, alone and behind
    comments that say its clauses."""
    databases: tuple[str, ...] | None = None
    """Only problems about these databases; null: all."""
    schema_tokens: Annotated[int, Field(ge=16)] = 768
    """Room for the schema, in tokens by an upper estimate that is of no tokenizer."""

    on_bad_gold: Literal["drop", "error"] = "drop"
    """What becomes of a row whose query its database refuses. ``drop``: it is left out, and counted in
    ``left_out.json``, as a few of the published rows are."""

    @abstractmethod
    def splits(self) -> tuple[Split, Split]:
        """Training and held-out files."""

    def level_and_evidence(self, row: dict[str, Any], place: str) -> tuple[int, str]:
        """Of a row, that is a question; ``place`` says for messages where it stands."""
        return 1, ""


@dataclass
class _Problems:
    """The problems of one split, and which databases they are about."""

    problems: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=lambda: Counter(schema_too_long=0, query_refused=0))


def read(config: Benchmark, task: Task, seed: int) -> tuple[pa.Table, pa.Table]:
    """Training and held-out problems, drawn by the seed, none in both. Raises ``BadInput``."""
    return write(config, task, seed, None)


def write(config: Benchmark, task: Task, seed: int, out: Path | None) -> tuple[pa.Table, pa.Table]:
    """The same; with ``out``, writes ``databases.json`` and ``left_out.json`` there."""
    train, held_out = config.splits()
    aside, rest = _problems(config, held_out), _problems(config, train)
    for key in aside.problems.keys() & rest.problems.keys():
        del rest.problems[key]
    tables = (
        _drawn(config, rest, task.train_count, "train_count", seed),
        _drawn(config, aside, task.held_out_count, "held_out_count", seed),
    )
    if out is not None:
        used = {json.loads(text)["database"] for table in tables for text in table["answer"].to_pylist()}
        files = {**rest.files, **aside.files}
        sql_rows.write_paths(out, {name: files[name] for name in used})
        write_json(out / "left_out.json", {"train": rest.left_out, "held_out": aside.left_out})
    return tables


def held_out(config: Benchmark, task: Task, out: Path | None) -> pa.Table:
    """Every held-out problem, in the order of the files. Raises ``BadInput``."""
    found = _problems(config, config.splits()[1])
    if not found.problems:
        raise BadInput(f"{config.SOURCE}: no held-out problems; expected some in {config.folder}")
    if out is not None:
        sql_rows.write_paths(out, found.files)
        write_json(out / "left_out.json", found.left_out)
    return table(found.problems.values())


def files(config: Benchmark) -> list[Path]:
    """The files that ``read`` reads, databases included. Raises ``BadInput``."""
    return _files(config, config.splits())


def held_out_files(config: Benchmark) -> list[Path]:
    """The files that ``held_out`` reads. Raises ``BadInput``."""
    return _files(config, config.splits()[1:])


def _files(config: Benchmark, splits: Iterable[Split]) -> list[Path]:
    found: list[Path] = []
    for split in splits:
        found += [*split.questions, split.tables]
        for path in split.questions:
            for place, row in _rows(path):
                name = _text(row, "db_id", place)
                if config.databases is None or name in config.databases:
                    found.append(split.databases / name / f"{name}.sqlite")
    return list(dict.fromkeys(found))


def _problems(config: Benchmark, split: Split) -> _Problems:
    found = _Problems()
    keys = _foreign_keys(split.tables)
    schemas: dict[str, tuple[sqlite3.Connection, str, frozenset[str]]] = {}
    for path in split.questions:
        for place, row in _rows(path):
            name, query = _text(row, "db_id", place), _text(row, config.QUERY, place)
            question = _text(row, "question", place)
            if config.databases is not None and name not in config.databases:
                continue
            if name not in schemas:
                schemas[name] = _opened(config, split, name, keys, place)
                found.files[name] = split.databases / name / f"{name}.sqlite"
            connection, schema, shown = schemas[name]
            try:
                fits = sql_schema.tables_read(connection, query.rstrip("; \n")) <= shown
            except (sqlite3.Error, sqlite3.Warning) as error:
                if config.on_bad_gold == "error":
                    raise BadInput(
                        f"{place}: {name} refuses '{config.QUERY}' ({error}); expected a query that runs "
                        "(task.problems.on_bad_gold=drop leaves it out)"
                    ) from None
                found.left_out["query_refused"] += 1
                continue
            if not fits:
                found.left_out["schema_too_long"] += 1
                continue
            level, evidence = config.level_and_evidence(row, place)
            shown_how = cell_texts(row, config.solution, place) if config.solution else ()
            problem = sql_rows.row(name, query, schema, question, level, config.SOURCE, evidence, shown_how)
            problem["columns"] = columns_text(row)
            found.problems.setdefault((name, " ".join(f"{question} {evidence}".split()).casefold()), problem)
    for connection, *_ in schemas.values():
        connection.close()
    return found


def _drawn(config: Benchmark, found: _Problems, wanted: int, option: str, seed: int) -> pa.Table:
    if len(found.problems) < wanted:
        long, refused = found.left_out["schema_too_long"], found.left_out["query_refused"]
        raise BadInput(
            f"{config.SOURCE}: {len(found.problems)} distinct problems, without {long} whose tables do not "
            f"fit into task.problems.schema_tokens and {refused} whose query SQLite refuses; expected "
            f"{wanted} (task.{option})"
        )
    rows = sorted(found.problems.values(), key=lambda row: str(row["problem_id"]))
    order = seeds.numpy_generator(seed, "problems", 0, option).permutation(len(rows))
    return table(rows[i] for i in order[:wanted])


def _opened(
    config: Benchmark, split: Split, name: str, keys: dict[str, ForeignKeys], place: str
) -> tuple[sqlite3.Connection, str, frozenset[str]]:
    """A database and what a prompt shows of it. Raises ``BadInput``."""
    if name not in keys:
        raise BadInput(f"{place}: no database '{name}' in {split.tables}{nearest(name, keys)}")
    path = split.databases / name / f"{name}.sqlite"
    if not path.is_file():
        raise BadInput(f"{place}: {path}: no such file; expected the database '{name}' there")
    connection = sql_schema.connect(path)
    try:
        found = sql_schema.read_tables(connection, config.example_rows, keys[name])
    except sqlite3.Error as error:
        raise BadInput(f"{path}: not a database that SQLite reads ({error})") from None
    return connection, *sql_schema.prompt_schema(found, config.example_rows, config.schema_tokens)


def _foreign_keys(path: Path) -> dict[str, ForeignKeys]:
    """By database: its foreign keys as ``tables.json`` lists them, which some files do not declare."""
    found: dict[str, ForeignKeys] = {}
    for place, row in _rows(path):
        wanted = ("table_names_original", "column_names_original", "foreign_keys")
        lists: list[Any] = [row.get(key) for key in wanted]
        names, columns, pairs = lists
        if not all(isinstance(each, list) for each in lists):
            raise BadInput(f"{place}: expected lists: {', '.join(wanted)}")
        try:
            at = [(str(names[table]), str(column)) if table >= 0 else ("", "") for table, column in columns]
            links = {(at[a][0].lower(), at[a][1].lower()): at[b] for a, b in pairs}
        except (IndexError, TypeError, ValueError):
            raise BadInput(f"{place}: a column or foreign key points to nothing") from None
        found[_text(row, "db_id", place)] = links
    return found


def _rows(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    """Each object of a JSON list, with where it stands. Raises ``BadInput``."""
    for place, row in rows_of(path, "task.problems.folder"):
        if not isinstance(row, dict):
            raise BadInput(f"{place}: expected an object, found {type(row).__name__}")
        yield place, row


def _text(row: dict[str, Any], key: str, place: str) -> str:
    if key not in row:
        raise BadInput(f"{place}: no '{key}'{nearest(key, row)}")
    text = cell_text(row[key], key, place)
    if not isinstance(row[key], str) or not text:
        raise BadInput(f"{place}: '{key}' is {row[key]!r:.60}; expected text")
    return text
