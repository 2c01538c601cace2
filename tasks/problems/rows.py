"""What all sources make their problems with: the table, ids by content, and equal shares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa

from tasks.artefacts.tables import PROBLEMS
from tasks.problems.contract import normalised


def columns_text(row: Mapping[str, Any]) -> str:
    """A source's row as a problem keeps it: a JSON object. Dates are text, and bytes are left out."""
    kept = {str(key): value for key, value in row.items() if not isinstance(value, bytes)}
    return json.dumps(kept, default=_as_json)


def _as_json(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else None if isinstance(value, bytes) else str(value)


def table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """A ``tables.PROBLEMS`` of rows with its columns; a row may be without demonstrations."""
    return pa.Table.from_pylist([{"demonstrations": [], **row} for row in rows], schema=PROBLEMS)


def distinct(stream: Iterator[dict[str, Any]], wanted: int, taken: set[str]) -> list[dict[str, Any]]:
    """Rows with questions that are not ``taken``, normalised, which grows by them: ``wanted``, or fewer where
    new ones have become rare."""
    rows: list[dict[str, Any]] = []
    missed = 0
    while len(rows) < wanted and missed <= 1000 + 25 * len(taken):
        row = next(stream)
        question = normalised(row["question"])
        if question in taken:
            missed += 1
        else:
            taken.add(question)
            rows.append(row)
            missed = 0
    return rows


def digest(text: str) -> str:
    """Twelve hexadecimal digits for a problem's id, the same for the same text."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]


def shares(count: int, parts: int) -> list[int]:
    """``count`` split into equal parts, the first ones greater by 1 where it does not divide."""
    return [(count + parts - 1 - place) // parts for place in range(parts)]
