"""Where questions come from. One source, one file: a frozen ``Config`` and a ``read``.

All that a source's module may have is a field of ``ProblemSource``. A dotted name, ``package.module``, is a
module of the user's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from params.parts import Part, find_part
from params.task import Task

Tables = tuple[pa.Table, pa.Table]
"""Training and held-out problems (``tables.PROBLEMS``), which share no question."""


@dataclass(frozen=True)
class ProblemSource(Part):
    """What a source's module offers; None where it has no such hook."""

    read: Callable[[Any, Task, int], Tables] | None = None
    """``read(config, task, seed)``, which every source has; equal arguments give equal tables."""
    write: Callable[[Any, Task, int, Path], Tables] | None = None
    """``write(config, task, seed, out)``: as ``read``, and puts into the directory ``out`` what the judge
    needs beside the tables, such as databases."""
    practice: Callable[[Any, int, int, set[str]], pa.Table] | None = None
    """``practice(config, count, seed, without)``: further problems, without these questions, normalised."""
    spoil: Callable[[str, random.Random], str] | None = None
    """``spoil(answer, rng)``: a plausible wrong answer, where the warm start's own are not."""
    shown_answer: Callable[[str], str] | None = None
    """``shown_answer(answer)``: the right answer as people read it, where the judge reads something else."""
    files: Callable[[Any], Sequence[Path]] | None = None
    """``files(config)``: the local files that ``read`` reads, whose contents belong into the fingerprint."""
    held_out: Callable[[Any, Task, Path | None], pa.Table] | None = None
    """``held_out(config, task, out)``: every problem that it holds out, in the order of its files, for a
    benchmark; with ``out``, what the judge needs is put there."""
    held_out_files: Callable[[Any], Sequence[Path]] | None = None
    """``held_out_files(config)``: as ``files``, those that ``held_out`` reads, where they are fewer."""
    CHECKS_GOLDS: bool = False
    """Whether ``read`` tries the right answers on the judge of ``task.reward``."""
    place: Callable[[Any, str], str | None] | None = None
    """``place(config, question)``: the file and line of a question, for messages."""

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
