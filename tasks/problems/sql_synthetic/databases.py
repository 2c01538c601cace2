"""Generated SQLite databases: some tables and columns of a domain, one person's way of naming, and rows."""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cache
from typing import Any

from tasks.problems.sql_schema import quoted
from tasks.problems.sql_synthetic import words
from tasks.problems.sql_synthetic.domains import DOMAINS

NUMBERS = ("count", "money", "int", "real")
CATEGORIES = ("of", "city", "country")
_KINDS = "person title goods company city country code email phone of date year int count money real"
_COLUMN = re.compile(
    rf"(?P<phrase>[a-z ]+) (?:(?P<to>>)|(?P<kind>{'|'.join(_KINDS.split())})(?P<label>!)?(?P<null>\?)?)"
    r"(?: (?P<argument>[A-Za-z0-9., ]+?)(?P<late_null>\?)?)?(?: \((?P<ends>.+)\))?(?: \{(?P<spoken>.+)\})?"
)
_COUNTED = re.compile(r"[a-z ]*s( of .*| sold)?")
_NUMBER_OF = "number of "
_HEAD = re.compile(r"(?P<one>[a-z ]+)/(?P<many>[a-z ]+)")


@dataclass(frozen=True)
class Column:
    """One column: how it is spelt, how it is spoken of, and what it holds."""

    name: str
    phrase: str
    """Of a foreign key: what the other table's rows are called."""
    kind: str
    """``key``, ``link`` (a foreign key), ``of`` (one of a few words), ``date``, ``int``, ``person``, ..."""
    argument: str = ""
    label: bool = False
    nullable: bool = False
    ends: tuple[str, ...] = ()
    """What the thing with the largest and the smallest value is called."""
    spoken: str = ""
    """``in %``, ``placed by``: words between the thing and the value or the other thing."""

    @property
    def sql(self) -> str:
        """The name as it stands in a query."""
        return quoted(self.name)

    @property
    def counted(self) -> str:
        """What the number in it is a number of: ``pages``; empty for a column that counts nothing."""
        return self.phrase.removeprefix(_NUMBER_OF) if self.phrase.startswith(_NUMBER_OF) else ""

    @property
    def plural(self) -> str:
        """``names``, ``cities``, ``numbers of pages``."""
        first, of, rest = self.phrase.partition(" of ")
        return re.sub(r"(?<![aeou])y$", "ie", re.sub(r"(s|x|ch)$", r"\1e", first)) + "s" + of + rest


@dataclass(frozen=True)
class Table:
    """One table, and what a row of it is called."""

    name: str
    one: str
    many: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[object, ...], ...] = ()

    @property
    def sql(self) -> str:
        """The name as it stands in a query."""
        return quoted(self.name)

    @property
    def key(self) -> Column:
        """The primary key."""
        return self.columns[0]

    @property
    def facts(self) -> list[Column]:
        """What may be asked for: everything but keys."""
        return [c for c in self.columns if c.kind not in ("key", "link")]

    @property
    def label(self) -> Column:
        """By which column people call a row; the key where there is none."""
        return next((c for c in self.columns if c.label), self.key)

    def of_kind(self, *kinds: str) -> list[Column]:
        """The facts of these kinds that are never NULL and by which no row is called."""
        return [c for c in self.facts if c.kind in kinds and not c.nullable and not c.label]

    def values(self, column: Column) -> list[Any]:
        """The column's cells that are not NULL, in the order of the rows."""
        place = self.columns.index(column)
        return [row[place] for row in self.rows if row[place] is not None]


@dataclass(frozen=True)
class Database:
    """A database, and the open connection to it in memory."""

    id: str
    domain: str
    tables: tuple[Table, ...]
    connection: sqlite3.Connection

    def links(self) -> list[tuple[Table, Column, Table]]:
        """(child, its foreign key, parent)."""
        tables = {table.one: table for table in self.tables}
        return [
            (child, column, tables[column.phrase])
            for child in self.tables
            for column in child.columns
            if column.kind == "link"
        ]


def make(domain: str, number: int, most_tables: int, seed: int) -> Database:
    """The database ``DOMAIN_NUMBER``: a few of the domain's tables in one naming style, filled."""
    rng = random.Random(seed)
    style = _style(rng)
    kinds = _worlds()[domain]
    count = rng.randint(min(2, most_tables), most_tables)
    start = rng.randrange(len(kinds) - count + 1)
    chosen = kinds[start : start + count]
    known = {kind["one"] for kind in chosen}
    tables: dict[str, Table] = {}
    for kind in chosen:
        tables[kind["one"]] = _filled(_table(kind, known, style, rng), tables, rng)
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    for table in tables.values():
        connection.execute(_create(table, tables, style))
        marks = ", ".join("?" * len(table.columns))
        connection.executemany(f"INSERT INTO {table.sql} VALUES ({marks})", table.rows)  # noqa: S608
    connection.commit()
    return Database(f"{domain}_{number}", domain, tuple(tables.values()), connection)


def domains() -> tuple[str, ...]:
    """The names of all domains."""
    return tuple(_worlds())


@cache
def _worlds() -> dict[str, list[dict[str, str]]]:
    """By domain: each of its things as its head and its columns."""
    worlds: dict[str, list[dict[str, str]]] = {}
    for line in filter(None, DOMAINS.splitlines()):
        if line.startswith("@"):
            things = worlds[line[1:]] = []
            continue
        head, _, columns = line.partition(": ")
        found = _HEAD.fullmatch(head)
        assert found, line
        things.append({**found.groupdict(), "columns": columns})
    return worlds


@dataclass(frozen=True)
class _Style:
    """One person's way of writing names and types."""

    column: Callable[[str], str]
    table: Callable[[str, str], str]
    key: Callable[[str], str]
    link: Callable[[str], str]
    own_name: bool
    """``customer_name`` instead of ``name``."""
    types: dict[str, str]
    text: str
    """The type of all other columns."""


def _style(rng: random.Random) -> _Style:
    writers: dict[str, Callable[[str], str]] = {
        "snake": lambda text: text.replace(" ", "_"),
        "camel": lambda text: text[0] + text.title().replace(" ", "")[1:],
        "pascal": lambda text: text.title().replace(" ", ""),
        "upper": lambda text: text.upper().replace(" ", "_"),
        "short": lambda text: "_".join(words.SHORT.get(word, word) for word in text.split()),
        "spaced": lambda text: text.title(),
    }
    name = rng.choices(list(writers), [8, 3, 3, 1, 2, 1])[0]
    write = writers[name]
    prefix = rng.choice(["", "", "", "", "tbl_", "t_"]) if name in ("snake", "short") else ""
    plural = rng.random() < 0.6
    end = write("x id")[1:]
    plain = rng.random() < 0.6
    types = dict.fromkeys(("key", "link", "int", "count", "year"), "INTEGER") | {"real": "REAL"}
    types |= {"money": "REAL"} if plain else {"money": "NUMERIC", "date": "DATE"}
    keys: list[Callable[[str], str]] = [lambda one: write("id"), lambda one: write(f"{one} id")]
    links: list[Callable[[str], str]] = [lambda one: write(one) + end, write]
    return _Style(
        column=write,
        table=lambda one, many: prefix + write(many if plural else one),
        key=rng.choice(keys),
        link=rng.choices(links, [4, 1])[0],
        own_name=rng.random() < 0.25,
        types=types,
        text="TEXT" if plain else "VARCHAR(60)",
    )


def _table(kind: dict[str, str], known: set[str], style: _Style, rng: random.Random) -> Table:
    """Its head and columns, without rows: some columns left out, and links to tables that are not there."""
    one = kind["one"]
    columns = [Column(style.key(one), "id", "key")]
    for text in kind["columns"].split("; "):
        found = _COLUMN.fullmatch(text)
        assert found, text
        phrase = found["phrase"]
        if found["to"]:
            if phrase in known and phrase != one:
                columns.append(Column(style.link(phrase), phrase, "link", spoken=found["spoken"]))
            continue
        if not found["label"] and rng.random() < 0.15:
            continue
        counts = found["kind"] in ("count", "int") and _COUNTED.fullmatch(phrase)
        written = f"{one} {phrase}" if style.own_name and phrase in ("name", "title", "number") else phrase
        columns.append(
            Column(
                name=style.column(written),
                phrase=_NUMBER_OF + phrase if counts else phrase,
                kind=found["kind"],
                argument=(found["argument"] or "").strip(),
                label=bool(found["label"]),
                nullable=bool(found["null"] or found["late_null"]),
                ends=tuple(found["ends"].split("|")) if found["ends"] else (),
                spoken=found["spoken"] or "",
            )
        )
    return Table(style.table(one, kind["many"]), one, kind["many"], tuple(columns))


def _filled(table: Table, others: dict[str, Table], rng: random.Random) -> Table:
    linked = any(column.kind == "link" for column in table.columns)
    count = rng.randint(24, 50) if linked else rng.randint(14, 30)
    cells = [_cells(column, others, count, rng) for column in table.columns]
    return replace(table, rows=tuple(zip(*cells, strict=True)))


def _cells(column: Column, others: dict[str, Table], count: int, rng: random.Random) -> list[object]:
    if column.kind == "key":
        start = rng.choice([1, 1, 1, 101, 1001])
        return list(range(start, start + count))
    if column.kind == "link":
        parent = others[column.phrase]
        keys = parent.values(parent.key)
        used = rng.sample(keys, max(3, round(len(keys) * 0.8)))
        return [rng.choice(used) for _ in range(count)]
    few = rng.sample(words.CITIES if column.kind == "city" else words.COUNTRIES, 6)
    found: list[object] = []
    while len(found) < count:
        value = _cell(column, few, rng)
        if not column.label or value not in found:
            found.append(value)
    return [None if column.nullable and rng.random() < 0.2 else value for value in found]


def _cell(column: Column, few: list[str], rng: random.Random) -> object:
    first, last = map(int, column.argument.split("..")) if ".." in column.argument else (0, 0)
    draws: dict[str, Callable[[], object]] = {
        "person": lambda: f"{rng.choice(words.FIRST)} {rng.choice(words.LAST)}",
        "title": lambda: f"{rng.choice(words.ADJECTIVES)} {rng.choice(words.NOUNS)}",
        "goods": lambda: rng.choice(words.GOODS),
        "company": lambda: rng.choice(words.COMPANIES),
        "city": lambda: rng.choice(words.CITIES if column.label else few),
        "country": lambda: rng.choice(few),
        "code": lambda: f"{rng.choice('ABCDEFGHKLMNPRST')}{rng.randint(10, 999)}",
        "email": lambda: f"{rng.choice(words.LAST).lower()}{rng.randint(1, 99)}@mail.org",
        "phone": lambda: f"555-{rng.randint(1000, 9999)}",
        "of": lambda: rng.choice(column.argument.split(",")),
        "date": lambda: str(date(first, 1, 1) + timedelta(rng.randrange(365 * (last - first + 1)))),
        "money": lambda: (
            round(first + (last - first) * rng.random() ** 1.5) + rng.choice([0.0, 0.5, 0.95, 0.25])
        ),
        "real": lambda: round(rng.uniform(first, last), 1),
    }
    return draws.get(column.kind, lambda: rng.randint(first, last))()


def _create(table: Table, tables: dict[str, Table], style: _Style) -> str:
    lines = []
    for column in table.columns:
        line = f"{column.sql} {style.types.get(column.kind, style.text)}"
        if column.kind == "key":
            line += " PRIMARY KEY"
        elif not column.nullable:
            line += " NOT NULL"
        if column.kind == "link":
            parent = tables[column.phrase]
            line += f" REFERENCES {parent.sql}({parent.key.sql})"
        lines.append(line)
    return f"CREATE TABLE {table.sql} (\n  " + ",\n  ".join(lines) + "\n)"
