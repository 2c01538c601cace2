"""What every source of SQL problems writes: rows of the problems' table, and where the databases are.

A row's ``answer`` is canonical JSON, ``{"database": ID, "query": SELECT ...}``. ``databases.json`` beside the
tables says where each database is: ``{ID: {"path", "sha256", "bytes"}}``, with a path inside the
artefact, or an absolute one to a file of the user's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt

import params.base
from tasks.artefacts.artefact import write_json
from tasks.artefacts.digests import file_digest
from tasks.problems.rows import digest
from tasks.rewards.sql_text import tokens

DATABASES = "databases.json"
_CLAUSES = {
    "FROM": "from",
    "WHERE": "keep rows with",
    "GROUP": "group by",
    "HAVING": "keep groups with",
    "SELECT": "show",
    "ORDER": "order by",
    "LIMIT": "at most",
}
"""The words that begin a clause, and what a comment calls it, in the order in which SQL works them out."""
_JOINS = ("UNION", "INTERSECT", "EXCEPT")


class Prompt(params.base.Config):
    """What every such source's ``Config`` begins with: how much of a database a prompt shows."""

    schema_tokens: PositiveInt = 256
    """Room for the schema, in tokens by an upper estimate that is of no tokenizer."""
    example_rows: Annotated[int, Field(ge=0, le=10)] = 2
    """Example rows of each table, where there is room."""


def row(
    database: str,
    query: str,
    schema: str,
    question: str,
    level: int,
    source: str,
    evidence: str = "",
    demonstrations: Sequence[str] = (),
) -> dict[str, Any]:
    """One row of ``tables.PROBLEMS``; the evidence, if any, follows the question as a hint. Without
    demonstrations the query is one, and once more after comments that say its clauses."""
    key = digest(f"{source}\n{database}\n{question}\n{query}")
    hint = f"\nHint: {evidence}" if evidence else ""
    return {
        "problem_id": f"{database}-{key}",
        "question": f"{schema}\n\nQuestion: {question}{hint}",
        "answer": json.dumps({"database": database, "query": query}, sort_keys=True, ensure_ascii=False),
        "level": level,
        "source": source,
        "demonstrations": list(demonstrations) or [commented(query), query],
    }


def commented(query: str) -> str:
    """A query behind comments that say its clauses in the order in which SQL works them out: reasoning that
    the judge skips. Of queries joined by UNION and the like each has its own comments in turn."""
    lines = []
    for number, part in enumerate(_parts(query)):
        lines += [f"-- {'then' if number else 'first'}"] if len(_parts(query)) > 1 else []
        lines += [f"-- {words}: {part[clause]}" for clause, words in _CLAUSES.items() if clause in part]
    return "\n".join([*lines, query])


def _parts(query: str) -> list[dict[str, str]]:
    """The clauses of each of the joined queries by their first words, on one line each."""
    found: list[dict[str, str]] = [{}]
    for word, text in _clauses(query):
        if word in _JOINS:
            found.append({})
        elif word in _CLAUSES:
            found[-1].setdefault(word, text)
    return found


def _clauses(query: str) -> Iterator[tuple[str, str]]:
    """Each word outside parentheses that begins a clause or joins two queries, and what follows it."""
    known = [t for t in tokens(query) if t.depth == 0 and t.keyword in (*_CLAUSES, *_JOINS)]
    ends = [*(token.start for token in known[1:]), len(query)]
    for token, end in zip(known, ends, strict=True):
        text = " ".join(query[token.start + len(token.text) : end].split())
        yield token.keyword, text.removeprefix("BY ").removeprefix("by ").rstrip("; ")


def shown_answer(text: str) -> str:
    """The right answer as a person reads it: the query alone."""
    return str(json.loads(text)["query"])


def write_bytes(out: Path, databases: Mapping[str, bytes]) -> None:
    """Write databases, by name, into the artefact ``out``, with ``databases.json``."""
    (out / "databases").mkdir()
    listed = {}
    for name, data in sorted(databases.items()):
        path = f"databases/{name}.sqlite"
        (out / path).write_bytes(data)
        listed[name] = {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    write_json(out / DATABASES, listed)


def write_paths(out: Path, databases: Mapping[str, Path]) -> None:
    """Write ``databases.json`` about files that stay where they are."""
    listed = {
        name: {"path": str(path.resolve()), "sha256": file_digest(path), "bytes": path.stat().st_size}
        for name, path in sorted(databases.items())
    }
    write_json(out / DATABASES, listed)
