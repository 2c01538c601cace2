"""Questions of level 3: several tables, groups, and rows in order."""

from __future__ import annotations

import random

from tasks.problems.sql_synthetic.databases import CATEGORIES, NUMBERS, Column, Table
from tasks.problems.sql_synthetic.phrases import (
    Draft,
    Maker,
    asked,
    condition,
    has,
    listing,
    of_column,
    of_link,
    selected,
)

# ruff: noqa: S608 - these queries are what is made here


@of_link
def joined(rng: random.Random, child: Table, link: Column, parent: Table) -> Draft | None:
    """Columns of rows whose other table's row meets a condition."""
    columns = asked(rng, child)
    found = condition(rng, parent)
    if found is None:
        return None
    plain = f"SELECT {selected(columns, 'T1')} FROM {child.sql} AS T1"
    tie = f" JOIN {parent.sql} AS T2 ON T1.{link.sql} = T2.{parent.key.sql}"
    question = listing(rng, child, columns, f"{has(link)} {found.words}")
    return Draft(question, f"{plain}{tie} WHERE {found.on('T2')}", (plain,))


@of_link
def joined_count(rng: random.Random, child: Table, link: Column, parent: Table) -> Draft | None:
    """How many rows there are whose other table's row meets a condition."""
    found = condition(rng, parent)
    if found is None:
        return None
    plain = f"SELECT COUNT(*) FROM {child.sql} AS T1"
    tie = f" JOIN {parent.sql} AS T2 ON T1.{link.sql} = T2.{parent.key.sql}"
    question = f"How many {child.many} {has(link)} {found.words} are there?"
    return Draft(question, f"{plain}{tie} WHERE {found.on('T2')}", (plain,))


@of_link
def together(rng: random.Random, child: Table, link: Column, parent: Table) -> Draft | None:
    """A column of each row beside one of the row that it refers to."""
    if not child.facts:
        return None
    mine, theirs = rng.choice(child.facts), parent.label
    found = condition(rng, child, [mine]) if rng.random() < 0.6 else None
    words = f" {found.words}" if found else ""
    whose = f"the {theirs.phrase} of its {link.phrase}"
    question = rng.choice(
        [
            f"For each {child.one}{words}, show its {mine.phrase} and {whose}.",
            f"Give the {mine.phrase} of every {child.one}{words} beside {whose}.",
        ]
    )
    plain = (
        f"SELECT T1.{mine.sql}, T2.{theirs.sql} FROM {child.sql} AS T1 "
        f"JOIN {parent.sql} AS T2 ON T1.{link.sql} = T2.{parent.key.sql}"
    )
    return Draft(question, f"{plain} WHERE {found.on('T1')}", (plain,)) if found else Draft(question, plain)


@of_column(*CATEGORIES)
def grouped(rng: random.Random, table: Table, column: Column) -> Draft | None:
    """A count or an aggregate for each value of a column."""
    numbers = table.of_kind(*NUMBERS)
    if numbers and rng.random() < 0.5:
        number = rng.choice(numbers)
        name, function = rng.choice([("average", "AVG"), ("highest", "MAX"), ("lowest", "MIN")])
        what, value = f"the {name} {number.phrase} of its {table.many}", f"{function}({number.sql})"
    else:
        what, value = f"the number of {table.many}", "COUNT(*)"
    question = rng.choice(
        [
            f"For each {column.phrase} of the {table.many}, show the {column.phrase} and {what}.",
            f"Show every {column.phrase} among the {table.many} together with {what}.",
        ]
    )
    return Draft(question, f"SELECT {column.sql}, {value} FROM {table.sql} GROUP BY {column.sql}")


@of_column(*CATEGORIES)
def having(rng: random.Random, table: Table, column: Column) -> Draft | None:
    """The values of a column that enough rows have."""
    least = rng.randint(2, 9)
    question = rng.choice(
        [
            f"Which {column.plural} have at least {least} {table.many}?",
            f"List every {column.phrase} that {least} or more {table.many} share.",
        ]
    )
    plain = f"SELECT {column.sql} FROM {table.sql} GROUP BY {column.sql}"
    return Draft(question, f"{plain} HAVING COUNT(*) >= {least}", (plain,))


@of_column(*NUMBERS, "date", "year")
def best(rng: random.Random, table: Table, column: Column) -> Draft | None:
    """The row, or the few rows, with the highest or lowest value."""
    top, down = rng.choice([1, 1, 2, 3, 5]), rng.random() < 0.6
    dated = column.kind in ("date", "year")
    end = ("latest" if down else "earliest") if dated else ("highest" if down else "lowest")
    order = f"{column.sql}{' DESC' if down else ''}"
    found = condition(rng, table, [column]) if rng.random() < 0.3 else None
    words, where = (f" {found.words}", f" WHERE {found.sql}") if found else ("", "")
    what = table.label.phrase if top == 1 else table.label.plural
    if top == 1:
        among = f"Among the {table.many}{words}, which" if found else "Which"
        question = f"{among} {table.one} has the {end} {column.phrase}? Give its {what}."
        if column.ends and not found and rng.random() < 0.5:
            question = f"What is the {what} of the {column.ends[0 if down else 1]} {table.one}?"
    else:
        among = f"Among the {table.many}{words}, list" if found else "List"
        question = (
            f"{among} the {what} of the {top} {table.many} with the {end} {column.phrase}, {end} first."
        )
    ranking = f"SELECT {column.sql} FROM {table.sql}{where} ORDER BY {order}"
    query = f"SELECT {table.label.sql} FROM {table.sql}{where} ORDER BY {order} LIMIT {top}"
    return Draft(question, query, (query.replace(where, ""),) if found else (), ranking, top)


@of_column(*NUMBERS, "date", "year")
def ordered(rng: random.Random, table: Table, column: Column) -> Draft | None:
    """A column of every row that meets a condition, in order."""
    down = rng.random() < 0.5
    found = condition(rng, table, [column])
    if found is None:
        return None
    dated = column.kind in ("date", "year")
    first, last = ("latest", "earliest") if dated else ("highest", "lowest")
    first, last = (first, last) if down else (last, first)
    question = (
        f"List the {table.label.plural} of the {table.many} {found.words}, "
        f"sorted by {column.phrase} from {first} to {last}."
    )
    order = f"{column.sql}{' DESC' if down else ''}"
    where = f"FROM {table.sql} WHERE {found.sql} ORDER BY {order}"
    plain = f"SELECT {table.label.sql} FROM {table.sql}"
    return Draft(question, f"SELECT {table.label.sql} {where}", (plain,), f"SELECT {column.sql} {where}")


@of_link
def counted(rng: random.Random, child: Table, link: Column, parent: Table) -> Draft | None:
    """How many rows refer to each row of another table, or which of those most of them refer to."""
    tie = (
        f"FROM {parent.sql} AS T2 JOIN {child.sql} AS T1 ON T1.{link.sql} = T2.{parent.key.sql} "
        f"GROUP BY T2.{parent.key.sql}"
    )
    name = parent.label
    if rng.random() < 0.5:
        question = (
            f"For each {parent.one} with at least one {child.one}, "
            f"show its {name.phrase} and the number of its {child.many}."
        )
        return Draft(question, f"SELECT T2.{name.sql}, COUNT(*) {tie}")
    ranking = f"SELECT COUNT(*) {tie} ORDER BY COUNT(*) DESC"
    question = f"Which {parent.one} has the most {child.many}? Give its {name.phrase}."
    query = f"SELECT T2.{name.sql} {tie} ORDER BY COUNT(*) DESC LIMIT 1"
    return Draft(question, query, (), ranking, 1)


LEVELS: dict[int, list[tuple[Maker, int]]] = {
    3: [
        (joined, 4),
        (joined_count, 2),
        (together, 2),
        (grouped, 3),
        (having, 2),
        (best, 4),
        (ordered, 2),
        (counted, 2),
    ]
}
"""By level: what makes its questions, and how often."""
