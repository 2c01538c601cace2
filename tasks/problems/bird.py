"""BIRD (Li et al. 2023, arXiv:2305.03111) from its published folders.

``train/``: ``train.json``, ``train_tables.json``, ``train_databases/ID/ID.sqlite``; ``dev/``: the same names
with ``dev``. A question's evidence, facts that its answer needs, stands in the prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from params.base import BadInput
from tasks.problems.sql_benchmark import Benchmark, Split, files, held_out, held_out_files, read, write
from tasks.problems.sql_rows import shown_answer

__all__ = ["Config", "files", "held_out", "held_out_files", "read", "shown_answer", "write"]

_LEVELS = {"moderate": 2, "challenging": 3}


class Config(Benchmark):
    """Where the files are, and what a prompt shows."""

    SOURCE = "bird"
    QUERY = "SQL"

    train: str = "train/train"
    """Start of the names of the training files: ``_tables.json``, ``_databases`` and ``.json`` follow."""
    held_out: str = "dev/dev"
    """Start of the names of the held-out files."""
    evidence: bool = True
    """Put a question's evidence into its prompt."""

    def splits(self) -> tuple[Split, Split]:
        """Each by the start of its files' names."""
        train, held_out = (Path(self.folder).expanduser() / start for start in (self.train, self.held_out))
        return _split(train), _split(held_out)

    def level_and_evidence(self, row: dict[str, Any], place: str) -> tuple[int, str]:
        """Its difficulty from 1 on, 1 where it has none; raises ``BadInput``."""
        evidence = row.get("evidence") or ""
        if not isinstance(evidence, str):
            raise BadInput(f"{place}: 'evidence' is {evidence!r:.60}; expected text")
        hint = " ".join(evidence.split()) if self.evidence else ""
        return _LEVELS.get(str(row.get("difficulty")), 1), hint


def _split(start: Path) -> Split:
    folder, name = start.parent, start.name
    return Split((folder / f"{name}.json",), folder / f"{name}_databases", folder / f"{name}_tables.json")
