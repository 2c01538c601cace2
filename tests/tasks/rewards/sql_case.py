"""A small database as people make them, listed as the judge finds it."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

SCHEMA = """
CREATE TABLE city (
 id INTEGER PRIMARY KEY, name TEXT, country TEXT, population INTEGER, founded DATE, area REAL);
CREATE TABLE visit (
 id INTEGER PRIMARY KEY, city_id INTEGER REFERENCES city(id), day TEXT, cost REAL, note BLOB);
CREATE VIEW large AS SELECT * FROM city WHERE population > 1000;
CREATE INDEX by_country ON city(country);
INSERT INTO city VALUES
 (1, 'Aa', 'X', 1000, '1900-01-01', 1.5), (2, 'Bb', 'X', 2000, '1800-05-06', 2.25),
 (3, 'Cc', 'Y', 3000, NULL, 0.1), (4, 'Dd', NULL, NULL, '2000-02-29', 0.2),
 (5, 'Aa', 'Z', 2000, '1900-01-01', NULL);
INSERT INTO visit VALUES
 (1, 1, '2020-01-01', 10.5, x'00ff'), (2, 1, '2020-01-02', 0.1, NULL), (3, 2, '2020-01-02', 0.2, x''),
 (4, 3, '2021-03-04', 3.0, NULL), (5, NULL, '2021-03-04', NULL, x'ff');
"""


def make_root(root: Path, names: tuple[str, ...] = ("town",)) -> Path:
    """A directory with ``databases.json`` and these databases, all alike."""
    root.mkdir(exist_ok=True)
    listed = {}
    first = root / f"{names[0]}.sqlite"
    connection = sqlite3.connect(first)
    connection.executescript(SCHEMA)
    connection.close()
    for name in names:
        path = root / f"{name}.sqlite"
        path.write_bytes(first.read_bytes())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        listed[name] = {"path": path.name, "sha256": digest, "bytes": path.stat().st_size}
    (root / "databases.json").write_text(json.dumps(listed))
    return root


def gold(query: str, database: str = "town") -> str:
    """The right answer, as the problems' table holds it."""
    return json.dumps({"database": database, "query": query})
