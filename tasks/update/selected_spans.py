"""What the terms of an update singled out: told in its metrics, written as ``spans.parquet``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa

from algorithms.terms import Span, Term
from tasks.artefacts.tables import SPANS, write_table
from tasks.core.segments import places
from tasks.update.responses import Responses

FILE = "spans.parquet"
KEPT = ("start", "stop", "step_start", "step_stop", "entropy", "selection")
TEXTS = ("before", "step", "after", "beyond")
"""Parts of a response, in order: up to the chosen step, the step, the rest of the span, what is left out."""


class Spans:
    """Gathers the spans of an update. A later pass over the same responses makes the same ones."""

    def __init__(self, given: Responses) -> None:
        self._given = given
        self._found: dict[tuple[str, int], Span] = {}

    def add(self, terms: Sequence[Term], members: Sequence[int]) -> None:
        """Take in what the terms found in a batch of these responses."""
        for term in terms:
            for span in term.spans:
                self._found[term.name, members[span.response]] = span

    def metrics(self) -> dict[str, float]:
        """By term: how many, and the means of their length in tokens, of the share of the response that this
        is, and of the chosen step's entropy (nats). Nothing where there is none."""
        said: dict[str, float] = {}
        for name in sorted({name for name, _ in self._found}):
            mine = {response: span for (term, response), span in self._found.items() if term == name}
            lengths = {response: span.stop - span.start for response, span in mine.items()}
            said |= {
                f"{name}.spans": len(mine),
                f"{name}.span_length": fmean(lengths.values()),
                f"{name}.span_share": fmean(
                    n / len(places(self._given.responses[r])) for r, n in lengths.items()
                ),
                f"{name}.span_entropy": fmean(span.entropy for span in mine.values()),
            }
        return said

    def write(self, folder: Path, decode: Callable[[list[int]], str]) -> None:
        """``spans.parquet``, unless there is none, in the responses' order; ``decode``: words to text."""
        if self._found:
            rows = [self._row(name, response, decode) for name, response in sorted(self._found)]
            write_table(folder / FILE, pa.Table.from_pylist(rows, schema=SPANS))

    def _row(self, term: str, response: int, decode: Callable[[list[int]], str]) -> dict[str, Any]:
        span, given = self._found[term, response], self._given
        words = given.responses[response]
        at = [0, *(place + 1 for place in places(words))]
        ends = (span.start, span.step_start, span.step_stop, span.stop)
        cuts = (*(at[end] for end in ends), len(words))
        return {
            "term": term,
            "problem_id": given.problem[response],
            "group": int(given.group[response]),
            "sample": given.sample[response],
            **{name: getattr(span, name) for name in KEPT},
            "tokens": len(places(words)),
            **{
                n: decode(list(words[a:b])) for n, (a, b) in zip(TEXTS, itertools.pairwise(cuts), strict=True)
            },
        }
