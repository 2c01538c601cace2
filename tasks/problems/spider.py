"""Spider (Yu et al. 2018, arXiv:1809.08887) from its published folder.

``tables.json``, ``train_spider.json``, ``train_others.json``, ``dev.json`` and
``database/ID/ID.sqlite``. The development set is held out; its databases are not in the training set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from tasks.problems.sql_benchmark import Benchmark, Split, files, held_out, held_out_files, read, write
from tasks.problems.sql_rows import shown_answer

__all__ = ["Config", "files", "held_out", "held_out_files", "read", "shown_answer", "write"]


class Config(Benchmark):
    """Which of the folder's files are read, and what a prompt shows."""

    SOURCE = "spider"
    QUERY = "query"

    train: Annotated[tuple[str, ...], Field(min_length=1)] = ("train_spider.json", "train_others.json")
    """Files of training questions."""
    held_out: Annotated[tuple[str, ...], Field(min_length=1)] = ("dev.json",)
    """Files of held-out questions."""
    database_folder: str = "database"
    """Folder of the databases (``test_database`` for ``test.json``)."""
    tables: str = "tables.json"
    """File that describes the databases (``test_tables.json`` for ``test.json``)."""

    def splits(self) -> tuple[Split, Split]:
        """Of one folder, with the same databases."""
        folder = Path(self.folder).expanduser()
        where = (folder / self.database_folder, folder / self.tables)
        train, held_out = (tuple(folder / name for name in names) for names in (self.train, self.held_out))
        return Split(train, *where), Split(held_out, *where)
