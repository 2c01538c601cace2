"""A database's schema as a prompt shows it: ``CREATE TABLE`` statements and example rows, within a budget."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LONGEST_CELL = 40
"""Characters of a cell that an example row shows."""
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PIECE = re.compile(r" ?(?:[A-Z]+(?![a-z])|[A-Z]?[a-z]+)|\s+|.", re.DOTALL)
# Reserved words of SQL that are likely as names in a database.
_RESERVED = """
add all alter and as asc between by case check column commit constraint create cross current_date
default delete desc distinct drop else end escape except exists for foreign from full glob group having
if in index inner insert intersect into is isnull join key left like limit match natural not notnull
null of offset on or order outer over plan primary query references replace right row rows select set
table then to transaction trigger union unique update using values view when where window with
"""

ForeignKeys = Mapping[tuple[str, str], tuple[str, str]]
"""(table, column) by (table, column), in lower case: keys that the file itself may not declare."""


@dataclass(frozen=True)
class TableText:
    """One table as a prompt may show it."""

    name: str
    create: str
    rows: tuple[str, ...]


def quoted(name: str) -> str:
    """A name as it stands in SQL: in double quotes where it is no plain word."""
    if _PLAIN.fullmatch(name) and name.lower() not in _RESERVED.split():
        return name
    return '"' + name.replace('"', '""') + '"'


def connect(path: Path) -> sqlite3.Connection:
    """A database file, read-only; text that is not UTF-8 is read with replacement characters."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    connection.text_factory = lambda data: data.decode(errors="replace")
    return connection


def read_tables(
    connection: sqlite3.Connection, rows: int, keys: ForeignKeys | None = None
) -> list[TableText]:
    """Every table of the database, in the order of creation, with its first ``rows`` rows.

    Raises ``sqlite3.Error``.
    """
    own = "type = 'table' AND substr(name, 1, 7) <> 'sqlite_'"
    names = connection.execute(f"SELECT name FROM sqlite_master WHERE {own} ORDER BY rowid").fetchall()  # noqa: S608
    return [
        TableText(name, _create(connection, name, keys or {}), _rows(connection, name, rows))
        for (name,) in names
    ]


def prompt_schema(found: Sequence[TableText], rows: int, budget: int) -> tuple[str, frozenset[str]]:
    """The schema within ``budget`` tokens as ``tokens`` counts them, and which tables it holds.

    Example rows are dropped first, one of each table at a time; then whole tables, the last ones first. Which
    of them the question needs plays no part: the prompt must not tell.
    """
    views = [(len(found), kept) for kept in range(rows, -1, -1)]
    views += [(count, 0) for count in range(len(found) - 1, -1, -1)]
    texts = ((_text(found[:count], kept), count) for count, kept in views)
    text, count = next((text, count) for text, count in texts if tokens(text) <= budget)
    return text, frozenset(table.name.lower() for table in found[:count])


def tokens(text: str) -> int:
    """An upper estimate of a text's tokens. It is of no tokenizer: all models get the same problems.

    A word, with a space before it, counts one for every four of its letters, or every two where they are
    capitals; a run of other white space counts one, any other character one for each of its bytes in UTF-8.
    """
    return sum(_piece(match[0]) for match in _PIECE.finditer(text))


def tables_read(connection: sqlite3.Connection, query: str) -> frozenset[str]:
    """The tables that a query reads, in lower case. It is compiled and not run. Raises ``sqlite3.Error``."""
    found: set[str] = set()

    def note(action: int, first: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_READ and first:
            found.add(first.lower())
        return sqlite3.SQLITE_OK

    connection.set_authorizer(note)
    try:
        connection.execute(f"EXPLAIN {query}").close()
    finally:
        connection.set_authorizer(None)
    return frozenset(name for name in found if not name.startswith("sqlite_"))


def _piece(piece: str) -> int:
    word = piece.strip()
    if word.isascii() and word.isalpha():
        return -(-len(word) // (2 if word.isupper() else 4))
    return 1 if piece.isspace() else len(piece.encode(errors="replace"))


def _text(found: Iterable[TableText], rows: int) -> str:
    return "\n".join("\n".join([table.create, *table.rows[:rows]]) for table in found)


def _create(connection: sqlite3.Connection, name: str, keys: ForeignKeys) -> str:
    """One statement on one line: names, types and keys, without other constraints, which cost room."""
    facts = connection.execute(f"PRAGMA table_info({quoted(name)})").fetchall()
    links = {
        column.lower(): (table, to)
        for _, _, table, column, to, *_ in connection.execute(f"PRAGMA foreign_key_list({quoted(name)})")
    }
    primary = [column for _, column, _, _, _, place in sorted(facts, key=lambda fact: int(fact[5])) if place]
    columns = []
    for _, column, kind, *_ in facts:
        parts = [quoted(column), kind] if kind else [quoted(column)]
        if primary == [column]:
            parts.append("PRIMARY KEY")
        link = links.get(column.lower()) or keys.get((name.lower(), column.lower()))
        if link:
            parts.append(f"REFERENCES {quoted(link[0])}" + (f"({quoted(link[1])})" if link[1] else ""))
        columns.append(" ".join(parts))
    if len(primary) > 1:
        columns.append(f"PRIMARY KEY ({', '.join(map(quoted, primary))})")
    return f"CREATE TABLE {quoted(name)} ({', '.join(columns)});"


def _rows(connection: sqlite3.Connection, name: str, count: int) -> tuple[str, ...]:
    found = connection.execute(f"SELECT * FROM {quoted(name)} LIMIT {count}").fetchall()  # noqa: S608
    return tuple("-- " + ", ".join(map(_cell, row)) for row in found)


def _cell(value: object) -> str:
    if value is None:
        return "NULL"
    text = f"<{len(value)} bytes>" if isinstance(value, bytes) else " ".join(str(value).split())
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"
