"""Questions of levels 0 to 2: rows and columns of one table, and what they add up to."""

from __future__ import annotations

import random

from tasks.problems.sql_synthetic.databases import CATEGORIES, NUMBERS, Column, Database, Table
from tasks.problems.sql_synthetic.phrases import (
    Draft,
    Maker,
    asked,
    condition,
    listing,
    of_column,
    selected,
)

# ruff: noqa: S608 - these queries are what is made here


def columns(rng: random.Random, db: Database, most: int = 3) -> Draft | None:
    """Up to ``most`` columns of every row, in any order."""
    table = rng.choice(db.tables)
    chosen = rng.sample(table.facts, rng.randint(1, min(most, len(table.facts))))
    return Draft(listing(rng, table, chosen, ""), f"SELECT {selected(chosen)} FROM {table.sql}")


def whole(rng: random.Random, db: Database) -> Draft | None:
    """Some columns of every row."""
    table = rng.choice(db.tables)
    columns = asked(rng, table)
    return Draft(listing(rng, table, columns, ""), f"SELECT {selected(columns)} FROM {table.sql}")


def filtered(rng: random.Random, db: Database) -> Draft | None:
    """Some columns of the rows that meet a condition."""
    table = rng.choice(db.tables)
    columns = asked(rng, table)
    found = condition(rng, table, columns)
    if found is None:
        return None
    plain = f"SELECT {selected(columns)} FROM {table.sql}"
    question = listing(rng, table, columns, found.words)
    return Draft(question, f"{plain} WHERE {found.sql}", (plain,))


def filtered_twice(rng: random.Random, db: Database) -> Draft | None:
    """The same under two conditions, joined by ``and`` or ``or``."""
    table = rng.choice(db.tables)
    columns = asked(rng, table, 1)
    first = condition(rng, table, columns)
    second = condition(rng, table, [*columns, first.column]) if first else None
    if first is None or second is None:
        return None
    word = rng.choice(["and", "and", "or"])
    plain = f"SELECT {selected(columns)} FROM {table.sql} WHERE "
    question = listing(rng, table, columns, f"{first.words} {word} {second.words}")
    query = f"{plain}{first.sql} {word.upper()} {second.sql}"
    return Draft(question, query, (plain + first.sql, plain + second.sql))


@of_column(*CATEGORIES)
def distinct(rng: random.Random, table: Table, column: Column) -> Draft | None:
    """The different values of a column."""
    found = condition(rng, table, [column]) if rng.random() < 0.4 else None
    words = f" {found.words}" if found else ""
    where = f" WHERE {found.sql}" if found else ""
    question = rng.choice(
        [
            f"Which different {column.plural} do the {table.many}{words} have?",
            f"List each {column.phrase} of the {table.many}{words} once.",
            f"What are the distinct {column.plural} of the {table.many}{words}?",
        ]
    )
    plain = f"SELECT {column.sql} FROM {table.sql}{where}"
    return Draft(question, plain.replace("SELECT", "SELECT DISTINCT", 1), (plain,))


def count(rng: random.Random, db: Database) -> Draft | None:
    """How many rows there are, or meet a condition."""
    table = rng.choice(db.tables)
    found = condition(rng, table) if rng.random() < 0.8 else None
    plain = f"SELECT COUNT(*) FROM {table.sql}"
    if found is None:
        question = rng.choice([f"How many {table.many} are there?", f"Count the {table.many}."])
        return Draft(question, plain)
    question = rng.choice(
        [
            f"How many {table.many} {found.words} are there?",
            f"Count the {table.many} {found.words}.",
            f"What is the number of {table.many} {found.words}?",
        ]
    )
    return Draft(question, f"{plain} WHERE {found.sql}", (plain,))


@of_column(*NUMBERS, "date", "year")
def aggregate(rng: random.Random, table: Table, column: Column) -> Draft | None:
    """One aggregate of a column: average, total, highest or lowest."""
    names = {"MAX": ["highest", "maximum"], "MIN": ["lowest", "minimum"]}
    if column.kind in ("date", "year"):
        names = {"MAX": ["latest"], "MIN": ["earliest"]}
    if column.kind in NUMBERS:
        names["AVG"] = ["average", "mean"]
    if column.kind in ("count", "money"):
        names["SUM"] = ["total"]
    function = rng.choice(sorted(names))
    found = condition(rng, table, [column]) if rng.random() < 0.5 else None
    words = f"the {table.many} {found.words}" if found else f"all {table.many}"
    name = rng.choice(names[function])
    question = rng.choice(
        [
            f"What is the {name} {column.phrase} of {words}?",
            f"Give the {name} {column.phrase} of {words}.",
            f"Compute the {name} {column.phrase} over {words}.",
        ]
    )
    plain = f"SELECT {function}({column.sql}) FROM {table.sql}"
    return Draft(question, f"{plain} WHERE {found.sql}", (plain,)) if found else Draft(question, plain)


@of_column(*NUMBERS)
def two_aggregates(rng: random.Random, table: Table, column: Column) -> Draft | None:
    """Two aggregates of a column side by side."""
    pairs = [
        ("lowest and the highest {}", "MIN({0}), MAX({0})"),
        ("highest and the average {}", "MAX({0}), AVG({0})"),
    ]
    words, functions = rng.choice(pairs)
    question = f"What are the {words.format(column.phrase)} of all {table.many}?"
    return Draft(question, f"SELECT {functions.format(column.sql)} FROM {table.sql}")


def count_distinct(rng: random.Random, db: Database) -> Draft | None:
    """How many different values a column holds."""
    table = rng.choice(db.tables)
    columns = [c for c in table.facts if not c.label and c.kind in (*CATEGORIES, "person")]
    if not columns:
        return None
    column = rng.choice(columns)
    question = rng.choice(
        [
            f"How many different {column.plural} do the {table.many} have?",
            f"Count the distinct {column.plural} of the {table.many}.",
        ]
    )
    plain = f"SELECT COUNT({column.sql}) FROM {table.sql}"
    return Draft(question, plain.replace("(", "(DISTINCT ", 1), (plain, f"SELECT COUNT(*) FROM {table.sql}"))


LEVELS: dict[int, list[tuple[Maker, int]]] = {
    0: [(columns, 1)],
    1: [(whole, 2), (filtered, 6), (filtered_twice, 2), (distinct, 1)],
    2: [(count, 5), (aggregate, 6), (two_aggregates, 1), (count_distinct, 2)],
}
"""By level: what makes its questions, and how often."""
