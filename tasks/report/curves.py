"""Every figure of every round of a run, and of several runs as one long table."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Record
from tasks.core.numbers import finite
from tasks.report.run.data import read_json

FILES = ("metrics.json", "scores.json")
"""Files of an artefact that hold its figures."""
PLAIN = re.compile(r"[A-Za-z0-9_@-]+(\.[A-Za-z0-9_@-]+)*")
"""A key that names a figure; one that is a sentence (the reason of a failed judgement) does not."""
SETTINGS = {"round", "confidence"}
"""Keys beside the figures that are none."""

CURVES = pa.schema(
    [
        pa.field("arm", pa.string(), nullable=False),
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),  # STAGE.NAME
        pa.field("round", pa.int32(), nullable=False),
        pa.field("value", pa.float64()),  # null where it was not finite, or nothing was measured
    ]
)

Figures = dict[str, dict[int, float | None]]
"""Values by metric (``STAGE.NAME``) and round; None where one was not finite, or nothing was measured."""


def figures_of(directory: Path, rounds: Container[int] | None = None) -> Figures:
    """Every figure of every round of the run, or of these. Raises ``Damaged`` for a file that has been
    changed.

    Beside what a stage's ``metrics.json`` or ``scores.json`` holds stands what it cost, as
    ``STAGE.measured.NAME``: that varies from one making to the next.
    """
    found: Figures = {}
    for step in Record.read(directory).steps:
        if step.role.kind != "prepare" and (rounds is None or step.round in rounds):
            artefact = Artefact.open(directory / step.place, check=False)
            for name, value in artefact_figures(artefact, step.stage):
                found.setdefault(name, {})[step.round] = value
    return found


def curves(runs: Iterable[tuple[str, int, Figures]]) -> pa.Table:
    """The table of these runs, each an arm, a seed and its figures."""
    rows = [
        {"arm": arm, "seed": seed, "metric": metric, "round": round, "value": value}
        for arm, seed, figures in runs
        for metric, by_round in sorted(figures.items())
        for round, value in sorted(by_round.items())
    ]
    return pa.Table.from_pylist(rows, schema=CURVES)


def flattened(prefix: str, value: Any) -> Iterator[tuple[str, float | None]]:
    """The figures in a JSON value, each with its dotted name.

    A figure with an interval over problems gives its value: a comparison has an interval over seeds. A list
    is counted from 1. A mapping of mappings is a table and no figure.
    """
    if _is_interval(value):
        value = value["value"]
    if value is None or isinstance(value, bool | int | float):
        yield prefix, None if value is None else finite(float(value))
    elif isinstance(value, list):
        for place, item in enumerate(value, start=1):
            if isinstance(item, int | float):
                yield f"{prefix}.{place}", finite(float(item))
    elif isinstance(value, dict):
        inside = "." in prefix
        for key, item in value.items():
            is_table = inside and isinstance(item, dict) and not _is_interval(item)
            if PLAIN.fullmatch(key) and key not in SETTINGS and not is_table:
                yield from flattened(f"{prefix}.{key}", item)


def artefact_figures(artefact: Artefact, stage: str) -> Iterator[tuple[str, float | None]]:
    """The figures of one artefact of a stage. Raises ``Damaged`` for a file that has been changed."""
    for name in FILES:
        if name in artefact.manifest.files:
            yield from flattened(stage, read_json(artefact, name))
    yield from flattened(f"{stage}.measured", artefact.manifest.measured)


def _is_interval(value: Any) -> bool:
    return isinstance(value, dict) and {"value", "low", "high"} <= value.keys()
