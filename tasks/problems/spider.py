"""Spider (Yu et al. 2018, arXiv:1809.08887) from its published folder.

``tables.json``, ``train_spider.json``, ``train_others.json``, ``dev.json`` and
``database/ID/ID.sqlite``. The development set is held out; its databases are not in the training set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from params.schema import Task
from tasks.problems import sql_benchmark, sql_rows
from tasks.problems.sql_benchmark import Benchmark, RowFormat, Split

shown_answer = sql_rows.shown_answer


class Config(Benchmark):
    """Which of the folder's files are read, and what a prompt shows."""

    train: Annotated[tuple[str, ...], Field(min_length=1)] = ("train_spider.json", "train_others.json")
    """Files of training questions."""
    held_out: Annotated[tuple[str, ...], Field(min_length=1)] = ("dev.json",)
    """Files of held-out questions."""
    database_folder: str = "database"
    """Folder of the databases (``test_database`` for ``test.json``)."""
    tables: str = "tables.json"
    """File that describes the databases (``test_tables.json`` for ``test.json``)."""


def read(config: Config, task: Task, seed: int) -> tuple[pa.Table, pa.Table]:
    """Training and held-out problems, drawn by the seed. Raises ``BadInput``."""
    return sql_benchmark.read_splits(config, _ROW_FORMAT, *_splits(config), task, seed, None)


def write(config: Config, task: Task, seed: int, out: Path) -> tuple[pa.Table, pa.Table]:
    """The same; writes where the databases are and how many problems were left out into ``out``."""
    return sql_benchmark.read_splits(config, _ROW_FORMAT, *_splits(config), task, seed, out)


def files(config: Config) -> list[Path]:
    """Every file that ``read`` reads, databases included."""
    return sql_benchmark.files(config, _splits(config))


def _splits(config: Config) -> tuple[Split, Split]:
    folder = Path(config.folder).expanduser()
    where = (folder / config.database_folder, folder / config.tables)
    train, held_out = (tuple(folder / name for name in names) for names in (config.train, config.held_out))
    return Split(train, *where), Split(held_out, *where)


def _row(row: dict[str, Any], place: str) -> tuple[int, str]:
    return 1, ""


_ROW_FORMAT = RowFormat("spider", "query", _row)
