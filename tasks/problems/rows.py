"""What all sources make their problems with: the table, ids by content, and equal shares."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from tasks.artefacts.tables import PROBLEMS


def table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """A ``tables.PROBLEMS`` of rows with its columns."""
    return pa.Table.from_pylist(list(rows), schema=PROBLEMS)


def digest(text: str) -> str:
    """Twelve hexadecimal digits for a problem's id, the same for the same text."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]


def shares(count: int, parts: int) -> list[int]:
    """``count`` split into equal parts, the first ones greater by 1 where it does not divide."""
    return [(count + parts - 1 - place) // parts for place in range(parts)]
