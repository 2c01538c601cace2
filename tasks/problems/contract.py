"""Where questions come from. One source, one file: a frozen ``Config`` and a ``read``.

All that a source's module may have is a field of ``ProblemSource``. A dotted name, ``package.module``, is a
module of the user's own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from params.parts import Part, find_part
from params.schema import Task

Tables = tuple[pa.Table, pa.Table]
"""Training and held-out problems (``tables.PROBLEMS``), which share no question."""


class Read(Protocol):
    """The problems; equal arguments give equal tables."""

    def __call__(self, config: Any, task: Task, seed: int) -> Tables: ...


class Write(Protocol):
    """As ``read``, and puts into the directory ``out`` what the judge needs beside them: databases."""

    def __call__(self, config: Any, task: Task, seed: int, out: Path) -> Tables: ...


class Practice(Protocol):
    """``count`` further problems, none of whose questions is in ``without``."""

    def __call__(self, config: Any, count: int, seed: int, without: set[str]) -> pa.Table: ...


class Spoil(Protocol):
    """A plausible wrong answer."""

    def __call__(self, answer: str, rng: random.Random) -> str: ...


class ShownAnswer(Protocol):
    """The right answer as people read it."""

    def __call__(self, answer: str) -> str: ...


class Files(Protocol):
    """The local files that ``read`` reads."""

    def __call__(self, config: Any) -> Sequence[Path]: ...


@dataclass(frozen=True)
class ProblemSource(Part):
    """What a source's module offers; None where it has no such hook."""

    read: Read | None = None
    """Every source has it."""
    write: Write | None = None
    """In place of ``read``, for a source whose judge needs files."""
    practice: Practice | None = None
    """For the warm start; a source without it has its training set read over and over."""
    spoil: Spoil | None = None
    """Where the warm start's own wrong answers are not plausible."""
    shown_answer: ShownAnswer | None = None
    """Where the judge reads something else than people do."""
    files: Files | None = None
    """Their contents belong into the stage's fingerprint."""

    def tables(self, config: Any, task: Task, seed: int) -> Tables:
        """What it reads."""
        assert self.read is not None
        return self.read(config, task, seed)


def find_source(name: str, where: str) -> ProblemSource:
    """The problem source that is called ``name``; raises ``BadInput``."""
    return find_part(ProblemSource, "tasks.problems", name, "read", where)


def normalised(question: str) -> str:
    """What decides whether two questions are the same: their words, without case and spacing."""
    return " ".join(question.split()).casefold()
