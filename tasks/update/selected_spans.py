"""What the terms of an update singled out: told in its metrics, written as ``clips.parquet``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa

from algorithms.terms import Clip, Term
from tasks.artefacts.tables import CLIPS, write_table
from tasks.update.responses import Answers

FILE = "clips.parquet"
KEPT = ("start", "stop", "step_start", "step_stop", "entropy", "selection")
TEXTS = ("before", "step", "after", "beyond")
"""Parts of a response, in order: up to the chosen step, the step, the rest of the clip, what is left out."""


class Clips:
    """Gathers the clips of an update. A later pass over the same responses makes the same ones."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._found: dict[tuple[str, int], Clip] = {}

    def add(self, terms: Sequence[Term], members: Sequence[int]) -> None:
        """Take in what the terms found in a batch of these responses."""
        for term in terms:
            for clip in term.clips:
                self._found[term.name, members[clip.response]] = clip

    def metrics(self) -> dict[str, float]:
        """By term: how many, and the means of their length in tokens, of the share of the response that this
        is, and of the chosen step's entropy (nats). Nothing where there is none."""
        said: dict[str, float] = {}
        for name in sorted({name for name, _ in self._found}):
            mine = {response: clip for (term, response), clip in self._found.items() if term == name}
            lengths = {response: clip.stop - clip.start for response, clip in mine.items()}
            said |= {
                f"{name}.clips": len(mine),
                f"{name}.clip_length": fmean(lengths.values()),
                f"{name}.clip_share": fmean(n / len(self._answers.responses[r]) for r, n in lengths.items()),
                f"{name}.clip_entropy": fmean(clip.entropy for clip in mine.values()),
            }
        return said

    def write(self, folder: Path, decode: Callable[[list[int]], str]) -> None:
        """``clips.parquet``, unless there is none, in the order of the answers; ``decode``: words to text."""
        if self._found:
            rows = [self._row(name, response, decode) for name, response in sorted(self._found)]
            write_table(folder / FILE, pa.Table.from_pylist(rows, schema=CLIPS))

    def _row(self, term: str, response: int, decode: Callable[[list[int]], str]) -> dict[str, Any]:
        clip, answers = self._found[term, response], self._answers
        words = answers.responses[response]
        cuts = (clip.start, clip.step_start, clip.step_stop, clip.stop, len(words))
        return {
            "term": term,
            "problem_id": answers.problem[response],
            "group": int(answers.group[response]),
            "sample": answers.sample[response],
            **{name: getattr(clip, name) for name in KEPT},
            "tokens": len(words),
            **{n: decode(words[a:b]) for n, (a, b) in zip(TEXTS, itertools.pairwise(cuts), strict=True)},
        }
