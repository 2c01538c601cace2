"""Text-to-SQL problems, as many as wanted: generated SQLite databases, and questions with gold queries.

Level 0 lists columns, 1 selects, 2 aggregates, 3 joins, groups and orders, 4 nests, 5 unites, intersects and
subtracts.
Training and held-out problems are about different domains, so no schema is in both; or, where the split is by
questions, about the same databases.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from params.base import BadInput
from params.task import Task
from tasks.core import seeds
from tasks.problems import sql_rows, sql_schema
from tasks.problems.rows import shares, table
from tasks.problems.sql_rows import Prompt
from tasks.problems.sql_synthetic import databases, joined, nested, simple
from tasks.problems.sql_synthetic.databases import Database
from tasks.problems.sql_synthetic.phrases import Draft, worth_asking

_LEVELS = {**simple.LEVELS, **joined.LEVELS, **nested.LEVELS}

shown_answer = sql_rows.shown_answer
_SLIPS = {"=": "<>", "<>": "=", "<": ">", ">": "<", "<=": "<", ">=": ">", " AND ": " OR ", " OR ": " AND "}
_SLIP = re.compile(
    r"'[^']*'|BETWEEN \S+ AND|" + "|".join(re.escape(sign) for sign in sorted(_SLIPS, key=len, reverse=True))
)


class Config(Prompt):
    """Which problems to make."""

    levels: Annotated[tuple[Annotated[int, Field(ge=0, le=5)], ...], Field(min_length=1)] = (1, 2, 3, 4, 5)
    """Levels, each of which has an equal share."""
    train_databases: Annotated[int, Field(ge=1, le=200)] = 36
    """Databases that the training problems are about."""
    held_out_databases: Annotated[int, Field(ge=1, le=200)] = 12
    """Databases that the held-out problems are about."""
    tables: Annotated[int, Field(ge=1, le=3)] = 3
    """Tables of a database at most."""
    columns: Annotated[int, Field(ge=1, le=3)] = 3
    """Columns that a question of level 0 asks for at most."""
    split: Literal["domains", "questions"] = "domains"
    """What the training and the held-out set do not share. ``questions``: questions alone; both are about the
    training databases, and a query may stand in both, asked for in other words (the question split of
    Finegan-Dollak et al. 2018, arXiv:1806.09029)."""

    @field_validator("levels")
    @classmethod
    def _once(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(levels)) < len(levels):
            raise ValueError("task.problems.levels: a level is named twice")
        return levels


@dataclass(frozen=True)
class _Opened:
    """A database, and what a prompt shows of it."""

    database: Database
    schema: str
    shown: frozenset[str]


def read(config: Config, task: Task, seed: int) -> tuple[pa.Table, pa.Table]:
    """Training and held-out problems. Raises ``BadInput`` where there are too few distinct ones."""
    train, held_out = _databases(config, seed)
    if train is held_out:
        both = _problems(config, train, task.train_count + task.held_out_count, seed, "train")
        return both[: task.train_count], both[task.train_count :]
    return (
        _problems(config, train, task.train_count, seed, "train"),
        _problems(config, held_out, task.held_out_count, seed, "held_out"),
    )


def write(config: Config, task: Task, seed: int, out: Path) -> tuple[pa.Table, pa.Table]:
    """The same, and the databases with ``databases.json`` into ``out``."""
    train, held_out = _databases(config, seed)
    opened = [each.database for each in (train if train is held_out else [*train, *held_out])]
    sql_rows.write_bytes(out, {each.id: each.connection.serialize() for each in opened})
    return read(config, task, seed)


def spoil(query: str, rng: random.Random) -> str:
    """A query that asks for something else: other comparisons, AND for OR, all rows, or a column less."""
    places = [found for found in _SLIP.finditer(query) if found[0] in _SLIPS]
    wrong = [query[: each.start()] + _SLIPS[each[0]] + query[each.end() :] for each in places]
    wrong += [query.replace("SELECT DISTINCT ", "SELECT ", 1), query.partition(" WHERE ")[0]]
    wrong = [each for each in wrong if each != query]
    if wrong:
        return rng.choice(wrong)
    named, rest = query.removeprefix("SELECT ").split(" FROM ", 1)
    fewer = named.split(", ")
    fewer.pop(rng.randrange(len(fewer)))
    return " ".join(["SELECT", ", ".join(fewer) or "*", "FROM", rest])


def _databases(config: Config, seed: int) -> tuple[list[_Opened], list[_Opened]]:
    names = list(databases.domains())
    random.Random(seeds.seed(seed, "problems", 0, "domains")).shuffle(names)
    aside = len(names) // 4
    train = [_open(config, names[aside:], index, seed) for index in range(config.train_databases)]
    if config.split == "questions":
        return train, train
    return train, [_open(config, names[:aside], index, seed) for index in range(config.held_out_databases)]


def _open(config: Config, names: Sequence[str], index: int, seed: int) -> _Opened:
    name, number = names[index % len(names)], index // len(names) + 1
    key = seeds.seed(seed, "problems", 0, "database", name, number)
    database = databases.make(name, number, config.tables, key)
    found = sql_schema.read_tables(database.connection, config.example_rows)
    schema, shown = sql_schema.prompt_schema(found, config.example_rows, config.schema_tokens)
    return _Opened(database, schema, shown)


def _problems(config: Config, opened: list[_Opened], wanted: int, seed: int, use: str) -> pa.Table:
    """Distinct problems, split evenly over the levels and about evenly over the databases, and shuffled."""
    rng = random.Random(seeds.seed(seed, "problems", 0, use))
    rows: list[dict[str, Any]] = []
    taken: set[tuple[str, str]] = set()
    places = count()
    for level, share in zip(config.levels, shares(wanted, len(config.levels)), strict=True):
        found = missed = 0
        while found < share:
            one = opened[next(places) % len(opened)]
            row = _problem(rng, config, one, level, taken)
            if row is None:
                missed += 1
                if missed > 20 + 3 * len(opened):
                    raise BadInput(
                        f"task.problems: level {level} has only {found} distinct problems on these databases"
                        f", in {config.schema_tokens} tokens; expected {share}: lower task.train_count or "
                        "held_out_count, or raise task.problems.train_databases, held_out_databases or "
                        "schema_tokens"
                    )
                continue
            rows.append(row)
            found, missed = found + 1, 0
    rng.shuffle(rows)
    return table(rows)


def _problem(
    rng: random.Random, config: Config, one: _Opened, level: int, taken: set[tuple[str, str]]
) -> dict[str, Any] | None:
    """A problem that is not taken, and now is; None where chance finds none."""
    makers, weights = zip(*_LEVELS[level], strict=True)
    if level == 0:
        makers = (partial(simple.columns, most=config.columns),)
    database = one.database
    for _ in range(60):
        draft: Draft | None = rng.choices(makers, weights)[0](rng, database)
        if draft is None:
            continue
        marks = {(database.id, draft.question)}
        if config.split == "domains":
            marks.add((database.id, draft.query))
        if marks & taken or not worth_asking(draft, database.connection):
            continue
        if sql_schema.tables_read(database.connection, draft.query) <= one.shown:
            taken |= marks
            return sql_rows.row(database.id, draft.query, one.schema, draft.question, level, "sql")
    return None
