"""Questions of levels 4 and 5: queries inside queries, and unions, intersections and differences."""

from __future__ import annotations

import random

from tasks.problems.sql_synthetic.databases import CATEGORIES, NUMBERS, Column, Database, Table
from tasks.problems.sql_synthetic.phrases import (
    Condition,
    Draft,
    Maker,
    condition,
    listing,
    literal,
    of_column,
    of_link,
    selected,
    spelt,
    with_article,
)

# ruff: noqa: S608 - these queries are what is made here


@of_column(*NUMBERS)
def beyond_average(rng: random.Random, table: Table, column: Column) -> Draft | None:
    """Rows above or below the average of all."""
    above = rng.random() < 0.6
    side = "above" if above else "below"
    words = f"whose {column.phrase} is {side} the average {column.phrase} of all {table.many}"
    plain = f"SELECT {table.label.sql} FROM {table.sql}"
    query = f"{plain} WHERE {column.sql} {'>' if above else '<'} (SELECT AVG({column.sql}) FROM {table.sql})"
    return Draft(listing(rng, table, [table.label], words), query, (plain,))


@of_link
def without_any(rng: random.Random, child: Table, link: Column, parent: Table) -> Draft | None:
    """Rows that no row of another table refers to, or some row that meets a condition."""
    plain = f"SELECT {parent.label.sql} FROM {parent.sql}"
    inner = f"SELECT {link.sql} FROM {child.sql}"
    if rng.random() < 0.5:
        question = listing(rng, parent, [parent.label], f"without any {child.one}")
        return Draft(question, f"{plain} WHERE {parent.key.sql} NOT IN ({inner})", (plain,))
    found = condition(rng, child)
    if found is None:
        return None
    question = listing(rng, parent, [parent.label], f"with at least one {child.one} {found.words}")
    query = f"{plain} WHERE {parent.key.sql} IN ({inner} WHERE {found.sql})"
    return Draft(question, query, (plain, f"{plain} WHERE {parent.key.sql} IN ({inner})"))


def like_that_one(rng: random.Random, db: Database) -> Draft | None:
    """Rows that share a value with a named one, or exceed it."""
    table = rng.choice([each for each in db.tables if each.label.label] or db.tables)
    columns = table.of_kind(*NUMBERS, *CATEGORIES)
    if not columns or not table.label.label:
        return None
    column, name = rng.choice(columns), rng.choice(table.values(table.label))
    plain = f"SELECT {table.label.sql} FROM {table.sql}"
    inner = f"(SELECT {column.sql} FROM {table.sql} WHERE {table.label.sql} = {literal(name)})"
    shown = spelt(rng, name)
    if column.kind in NUMBERS:
        words, query = f"with a higher {column.phrase} than {shown}", f"{plain} WHERE {column.sql} > {inner}"
        return Draft(listing(rng, table, [table.label], words), query, (plain,))
    question = (
        f"Which other {table.many} have the same {column.phrase} as {shown}? Give their {table.label.plural}."
    )
    where = f" AND {table.label.sql} <> {literal(name)}"
    return Draft(question, f"{plain} WHERE {column.sql} = {inner}{where}", (plain,))


@of_link
def of_the_best(rng: random.Random, child: Table, link: Column, parent: Table) -> Draft | None:
    """Rows that refer to the one with the highest or lowest value."""
    columns = parent.of_kind(*NUMBERS)
    if not columns or not child.facts:
        return None
    column, down = rng.choice(columns), rng.random() < 0.5
    order = f"ORDER BY {column.sql}{' DESC' if down else ''}"
    wanted: list[Column] = [child.label] if child.label.label else [rng.choice(child.facts)]
    words = f"{link.spoken} the {parent.one} with the {'highest' if down else 'lowest'} {column.phrase}"
    query = (
        f"SELECT {selected(wanted)} FROM {child.sql} WHERE {link.sql} = "
        f"(SELECT {parent.key.sql} FROM {parent.sql} {order} LIMIT 1)"
    )
    ranking = f"SELECT {column.sql} FROM {parent.sql} {order}"
    return Draft(listing(rng, child, wanted, words), query, (), ranking, 1)


@of_column(*CATEGORIES)
def average_count(rng: random.Random, table: Table, column: Column) -> Draft | None:
    """An aggregate over the counts of groups."""
    name, function = rng.choice([("average", "AVG"), ("largest", "MAX"), ("smallest", "MIN")])
    question = f"What is the {name} number of {table.many} that share one {column.phrase}?"
    inner = f"SELECT COUNT(*) AS n FROM {table.sql} GROUP BY {column.sql}"
    return Draft(question, f"SELECT {function}(n) FROM ({inner})")


@of_column(*CATEGORIES)
def in_both(rng: random.Random, table: Table, column: Column) -> Draft | None:
    """The values of a column that rows of two kinds have, or those of one kind and not of the other."""
    pair = _two(rng, table, column)
    if pair is None:
        return None
    one, other = (f"SELECT {column.sql} FROM {table.sql} WHERE {each.sql}" for each in pair)
    a_first, second = f"{with_article(table.one)} {pair[0].words}", f"{table.one} {pair[1].words}"
    if rng.random() < 0.5:
        ways, word = f"both {a_first} and {with_article(second)}", "INTERSECT"
    else:
        ways, word = f"{a_first} but no {second}", "EXCEPT"
    question = rng.choice(["Which {} have {}?", "List the {} that have {}, each once."]).format(
        column.plural, ways
    )
    return Draft(question, f"{one} {word} {other}", (one, one.replace("SELECT", "SELECT DISTINCT", 1)))


def either_kind(rng: random.Random, db: Database) -> Draft | None:
    """The names of rows of two kinds, each once."""
    table = rng.choice([each for each in db.tables if each.label.label] or db.tables)
    first = condition(rng, table, [table.label])
    second = condition(rng, table, [table.label, first.column]) if first else None
    if first is None or second is None:
        return None
    plain = f"SELECT {table.label.sql} FROM {table.sql} WHERE "
    question = (
        f"In one list, give the {table.label.plural} of the {table.many} {first.words} "
        f"and those of the {table.many} {second.words}, each once."
    )
    query = f"{plain}{first.sql} UNION {plain}{second.sql}"
    return Draft(question, query, (plain + first.sql, plain + second.sql))


@of_link
def linked_both(rng: random.Random, child: Table, link: Column, parent: Table) -> Draft | None:
    """Rows that two kinds of rows refer to, or one kind and not the other."""
    columns = child.of_kind(*CATEGORIES)
    if not columns:
        return None
    pair = _two(rng, child, None, rng.choice(columns))
    if pair is None:
        return None
    first, second = pair
    one, other = (f"SELECT {link.sql} FROM {child.sql} WHERE {each.sql}" for each in pair)
    word, joint = rng.choice([("INTERSECT", "and also"), ("EXCEPT", "but without any")])
    tail = second.words if word == "EXCEPT" else f"with one {second.words}"
    words = f"with at least one {child.one} {first.words} {joint} {tail}"
    plain = f"SELECT {parent.label.sql} FROM {parent.sql} WHERE {parent.key.sql} IN "
    return Draft(
        listing(rng, parent, [parent.label], words), f"{plain}({one} {word} {other})", (f"{plain}({one})",)
    )


def in_two_tables(rng: random.Random, db: Database) -> Draft | None:
    """The values that columns of the same kind in two tables hold: all, the common ones, the difference."""
    kinds = ("city", "country", "person", "date")
    places = [(t, c) for t in db.tables for c in t.facts if c.kind in kinds and not c.nullable]
    pairs = [(a, b) for a in places for b in places if a[0] is not b[0] and a[1].kind == b[1].kind]
    if not pairs:
        return None
    (left, mine), (right, theirs) = rng.choice(pairs)
    one, other = f"SELECT {mine.sql} FROM {left.sql}", f"SELECT {theirs.sql} FROM {right.sql}"
    my, their = f"{mine.phrase} of {with_article(left.one)}", f"{theirs.phrase} of {with_article(right.one)}"
    if mine.kind in ("city", "country") and rng.random() < 0.6:
        word = rng.choice(["INTERSECT", "EXCEPT"])
        joint = "and also" if word == "INTERSECT" else "but never"
        question = f"Which values occur as the {my} {joint} as the {their}? List each once."
        return Draft(question, f"{one} {word} {other}", (one,))
    question = f"In one list, give every value that is the {my} or the {their}, each once."
    return Draft(question, f"{one} UNION {other}", (one, other))


def _two(
    rng: random.Random, table: Table, but: Column | None, same: Column | None = None
) -> tuple[Condition, Condition] | None:
    """Two conditions on one column of the table."""
    columns = [same] if same else [c for c in table.of_kind(*CATEGORIES) if c is not but]
    if columns:
        column = rng.choice(columns)
        values = sorted(set(table.values(column)))
        if len(values) < 2:
            return None
        first, second = (
            Condition(f"whose {column.phrase} is {value}", f"{column.sql} = {literal(value)}", column)
            for value in rng.sample(values, 2)
        )
        return first, second
    one = condition(rng, table, [but] if but else [])
    other = condition(rng, table, [but, one.column] if one and but else [])
    return (one, other) if one and other else None


LEVELS: dict[int, list[tuple[Maker, int]]] = {
    4: [(beyond_average, 3), (without_any, 4), (like_that_one, 3), (of_the_best, 2), (average_count, 1)],
    5: [(in_both, 4), (either_kind, 3), (linked_both, 3), (in_two_tables, 2)],
}
"""By level: what makes its questions, and how often."""
