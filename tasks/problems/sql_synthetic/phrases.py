"""Pieces of questions and of their gold queries: what is asked for, under which condition, what holds."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tasks.problems.sql_synthetic.databases import CATEGORIES, NUMBERS, Column, Database, Table


@dataclass(frozen=True)
class Draft:
    """A question that may be asked, if what its query gives is worth asking for."""

    question: str
    query: str
    without: tuple[str, ...] = ()
    """Simpler queries, such as the one without its condition: all must give something else."""
    ranking: str | None = None
    """A query of the values that decide an order, best first: those that count must differ."""
    top: int | None = None
    """How many of them count, beside the next one; None: all."""


Maker = Callable[[random.Random, Database], Draft | None]
"""Makes a draft, or None where this database has nothing to ask of that kind."""


def of_link(make: Callable[[random.Random, Table, Column, Table], Draft | None]) -> Maker:
    """A maker that asks about rows, their foreign key and the table that it refers to."""

    def maker(rng: random.Random, db: Database) -> Draft | None:
        links = db.links()
        return make(rng, *rng.choice(links)) if links else None

    return maker


ColumnMaker = Callable[[random.Random, Table, Column], Draft | None]


def of_column(*kinds: str) -> Callable[[ColumnMaker], Maker]:
    """A maker that asks about a column of these kinds, one that may be computed or grouped with."""

    def decorate(make: ColumnMaker) -> Maker:
        def maker(rng: random.Random, db: Database) -> Draft | None:
            table = rng.choice(db.tables)
            columns = table.of_kind(*kinds)
            return make(rng, table, rng.choice(columns)) if columns else None

        return maker

    return decorate


@dataclass(frozen=True)
class Condition:
    """A condition on the rows of one table."""

    words: str
    """Follows what the rows are called: ``with a price above 40``, ``whose city is Oslo``."""
    sql: str
    """Over a column's bare name; ``on`` puts the table before it."""
    column: Column

    def on(self, alias: str) -> str:
        """The same over the table's alias."""
        return self.sql.replace(self.column.sql, f"{alias}.{self.column.sql}", 1)


def worth_asking(draft: Draft, connection: sqlite3.Connection) -> bool:
    """Whether the gold query gives some rows, not too many, that are not all NULL or 0, every part of it
    matters, and what it orders by has no ties."""
    rows = connection.execute(draft.query).fetchall()
    if not 0 < len(rows) <= 60 or all(value in (None, 0) for row in rows for value in row):
        return False
    if any(_same(rows, connection.execute(query).fetchall()) for query in draft.without):
        return False
    if draft.ranking is None:
        return True
    values = [row[0] for row in connection.execute(draft.ranking)]
    values = values[: None if draft.top is None else draft.top + 1]
    return None not in values and len(set(values)) == len(values) > (draft.top or 1)


def asked(rng: random.Random, table: Table, most: int = 2) -> list[Column]:
    """The columns that a question asks for."""
    facts = [column for column in table.facts if column is not table.label]
    if rng.random() < 0.55 or not facts:
        return [table.label]
    if most > 1 and rng.random() < 0.6:
        return [table.label, rng.choice(facts)]
    return [rng.choice(facts)]


def selected(columns: Sequence[Column], alias: str = "") -> str:
    """What stands behind SELECT."""
    return ", ".join(f"{alias}.{column.sql}" if alias else column.sql for column in columns)


def listing(rng: random.Random, table: Table, columns: Sequence[Column], condition: str) -> str:
    """Asks for the columns of every row that meets the condition, in one of several ways.

    Where values may repeat, the words say that each row counts.
    """
    what, several = both(column.phrase for column in columns), both(column.plural for column in columns)
    condition = f" {condition}" if condition else ""
    each = [
        f"Give the {what} of every {table.one}{condition}.",
        f"For each {table.one}{condition}, show the {what}.",
        f"Show the {what} of each {table.one}{condition}.",
        f"For every {table.one}{condition}, what is the {what}?",
    ]
    every = [
        f"List the {several} of all {table.many}{condition}.",
        f"What are the {several} of the {table.many}{condition}?",
        f"I need the {several} of all {table.many}{condition}.",
        f"Find the {several} of the {table.many}{condition}.",
    ]
    return rng.choice(each + every if columns[0] is table.label else each)


def condition(rng: random.Random, table: Table, but: Sequence[Column] = ()) -> Condition | None:
    """A condition on one column, met by some rows and not by all, most of the time."""
    columns = [c for c in table.facts if c not in but and c.kind not in ("email", "phone", "code")]
    weights = [0.5 if c.label else 2.0 if c.kind in CATEGORIES else 1.0 for c in columns]
    if not columns:
        return None
    column = rng.choices(columns, weights)[0]
    if column.nullable and rng.random() < 0.6:
        return _missing(rng, column)
    if column.kind in NUMBERS or column.kind == "year":
        return _number(rng, table, column)
    if column.kind == "date":
        return _date(rng, table, column)
    return _text(rng, table, column)


def both(words: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def literal(value: object) -> str:
    """A value as SQL."""
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def spelt(rng: random.Random, value: object) -> str:
    """A value as a question says it: exactly as the table holds it, at times in quotes."""
    return rng.choice(["{}", "{}", "'{}'", '"{}"']).format(value) if isinstance(value, str) else str(value)


def has(link: Column) -> str:
    """``placed by a customer``: how a row is tied to the one that it refers to."""
    return f"{link.spoken} {with_article(link.phrase)}"


def with_article(words: str) -> str:
    """``a city``, ``an hour``."""
    return f"{'an' if words[0] in 'aeio' or words.startswith('hour') else 'a'} {words}"


def _missing(rng: random.Random, column: Column) -> Condition:
    if rng.random() < 0.6:
        words = [f"without {with_article(column.phrase)} on record", f"whose {column.phrase} is missing"]
        return Condition(rng.choice(words), f"{column.sql} IS NULL", column)
    return Condition(f"whose {column.phrase} is known", f"{column.sql} IS NOT NULL", column)


def _number(rng: random.Random, table: Table, column: Column) -> Condition:
    name, values = column.phrase, sorted(set(table.values(column)))
    value = rng.choice(values[len(values) // 5 : -(len(values) // 5) or None])
    more, less, least = ("after", "before", "later") if column.kind == "year" else ("above", "below", "more")
    above = f"with {with_article(name)} {more} {value}"
    below = f"with {with_article(name)} {less} {value}"
    from_on = f"with {with_article(name)} of {value} or {least}"
    if column.counted:
        above, below = f"with more than {value} {column.counted}", f"with fewer than {value} {column.counted}"
        from_on = f"with at least {value} {column.counted}"
    ways = [
        (above, f"{column.sql} > {value}"),
        (f"whose {name} is {more} {value}", f"{column.sql} > {value}"),
        (below, f"{column.sql} < {value}"),
        (f"whose {name} is {less} {value}", f"{column.sql} < {value}"),
        (from_on, f"{column.sql} >= {value}"),
        (f"whose {name} is exactly {value}", f"{column.sql} = {value}"),
    ]
    if rng.random() < 0.15 and len(values) > 6:
        low, high = sorted(rng.sample(values, 2))
        ways = [(f"whose {name} is between {low} and {high}", f"{column.sql} BETWEEN {low} AND {high}")]
    return Condition(*rng.choice(ways), column)


def _date(rng: random.Random, table: Table, column: Column) -> Condition:
    name, value = column.phrase, rng.choice(table.values(column))
    ways = [
        (f"whose {name} is after {value}", f"{column.sql} > '{value}'"),
        (f"whose {name} is before {value}", f"{column.sql} < '{value}'"),
        (f"with {with_article(name)} before {value}", f"{column.sql} < '{value}'"),
        (f"whose {name} is in {value[:4]}", f"{column.sql} LIKE '{value[:4]}-%'"),
    ]
    return Condition(*rng.choice(ways), column)


def _text(rng: random.Random, table: Table, column: Column) -> Condition:
    values = table.values(column)
    value = rng.choice(values)
    shown = spelt(rng, value)
    ways = [(f"whose {column.phrase} is {shown}", f"{column.sql} = {literal(value)}")]
    if column.spoken:
        ways += [(column.spoken.replace("%", value), ways[0][1])] * 2
    elif column.kind in CATEGORIES:
        ways.append((f"with {with_article(column.phrase)} of {shown}", ways[0][1]))
    several = sorted({*values} - {value})
    if column.kind in CATEGORIES and len(several) > 1 and rng.random() < 0.2:
        other = rng.choice(several)
        ways = [
            (
                f"whose {column.phrase} is {shown} or {other}",
                f"{column.sql} IN ({literal(value)}, {literal(other)})",
            ),
            (f"whose {column.phrase} is not {shown}", f"{column.sql} <> {literal(value)}"),
        ]
    return Condition(*rng.choice(ways[:1] if column.nullable else ways), column)


def _same(first: list[tuple[object, ...]], second: list[tuple[object, ...]]) -> bool:
    return sorted(map(repr, first)) == sorted(map(repr, second))
