"""BIRD (Li et al. 2023, arXiv:2305.03111) from its published folders.

``train/``: ``train.json``, ``train_tables.json``, ``train_databases/ID/ID.sqlite``; ``dev/``: the same names
with ``dev``. A question's evidence, facts that its answer needs, stands in the prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from params.base import BadInput
from params.schema import Task
from tasks.problems import sql_benchmark, sql_rows
from tasks.problems.sql_benchmark import Benchmark, RowFormat, Split

shown_answer = sql_rows.shown_answer
_HARDNESS = ("simple", "moderate", "challenging")


class Config(Benchmark):
    """Where the files are, and what a prompt shows."""

    train: str = "train/train"
    """Start of the names of the training files: ``_tables.json``, ``_databases`` and ``.json`` follow."""
    held_out: str = "dev/dev"
    """Start of the names of the held-out files."""
    evidence: bool = True
    """Put a question's evidence into its prompt."""


def read(config: Config, task: Task, seed: int) -> tuple[pa.Table, pa.Table]:
    """Training and held-out problems, drawn by the seed. Raises ``BadInput``."""
    return sql_benchmark.read_splits(config, _row_format(config), *_splits(config), task, seed, None)


def write(config: Config, task: Task, seed: int, out: Path) -> tuple[pa.Table, pa.Table]:
    """The same; writes where the databases are and how many problems were left out into ``out``."""
    return sql_benchmark.read_splits(config, _row_format(config), *_splits(config), task, seed, out)


def files(config: Config) -> list[Path]:
    """Every file that ``read`` reads, databases included."""
    return sql_benchmark.files(config, _splits(config))


def _splits(config: Config) -> tuple[Split, Split]:
    return _split(config, config.train), _split(config, config.held_out)


def _split(config: Config, start: str) -> Split:
    folder, name = (Path(config.folder).expanduser() / start).parent, Path(start).name
    return Split((folder / f"{name}.json",), folder / f"{name}_databases", folder / f"{name}_tables.json")


def _row_format(config: Config) -> RowFormat:
    def row(row: dict[str, Any], place: str) -> tuple[int, str]:
        evidence = row.get("evidence") or ""
        if not isinstance(evidence, str):
            raise BadInput(f"{place}: 'evidence' is {evidence!r:.60}; expected text")
        hint = " ".join(evidence.split()) if config.evidence else ""
        return sql_benchmark.level(row.get("difficulty"), _HARDNESS), hint

    return RowFormat("bird", "SQL", row)
