"""What every source of SQL problems writes: rows of the problems' table, and where the databases are.

A row's ``answer`` is canonical JSON, ``{"database": ID, "query": SELECT ...}``. ``databases.json`` beside the
tables says where each database is: ``{ID: {"path", "sha256", "bytes"}}``, with a path inside the
artefact, or an absolute one to a file of the user's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt

import params.base
from tasks.artefacts.artefact import file_digest, write_json
from tasks.problems.rows import digest

DATABASES = "databases.json"


class Prompt(params.base.Config):
    """What every such source's ``Config`` begins with: how much of a database a prompt shows."""

    schema_tokens: PositiveInt = 256
    """Room for the schema, in tokens by an upper estimate that is of no tokenizer."""
    example_rows: Annotated[int, Field(ge=0, le=10)] = 2
    """Example rows of each table, where there is room."""


def row(
    database: str, query: str, schema: str, question: str, level: int, source: str, evidence: str = ""
) -> dict[str, Any]:
    """One row of ``tables.PROBLEMS``; the evidence, if any, follows the question as a hint."""
    key = digest(f"{source}\n{database}\n{question}\n{query}")
    hint = f"\nHint: {evidence}" if evidence else ""
    return {
        "problem_id": f"{database}-{key}",
        "question": f"{schema}\n\nQuestion: {question}{hint}",
        "answer": json.dumps({"database": database, "query": query}, sort_keys=True, ensure_ascii=False),
        "level": level,
        "source": source,
    }


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
