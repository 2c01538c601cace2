"""What several rewards say of answers, each by itself: figures for metrics, scores, reports and trackers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.numbers import LARGEST


def components(answers: pa.Table) -> dict[str, Any]:
    """What several rewards said, each by its mean over the answers that it applies to, their weighted sum,
    and the means of the numbers that rewards note; empty where there is nothing of it."""
    found: dict[str, Any] = {}
    if answers["rewards"].null_count < len(answers):
        found["rewards"] = _means(dict(row) for row in answers["rewards"].drop_null().to_pylist())
        found["total_mean"] = pc.mean(answers["total"].cast(pa.float64())).as_py()
    if answers["notes"].null_count < len(answers):
        notes = _means(json.loads(row) for row in answers["notes"].drop_null().to_pylist())
        found["notes"] = {name: value for name, value in notes.items() if value is not None}
    return found


def _means(rows: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    """By name the mean of what is a number that float32 holds; None where nothing is."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            numbers = values.setdefault(name, [])
            if isinstance(value, int | float) and abs(value) <= LARGEST:
                numbers.append(float(value))
    return {name: math.fsum(found) / len(found) if found else None for name, found in sorted(values.items())}
