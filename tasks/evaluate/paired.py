"""Two policies on the same problems: the mean difference of a problem's accuracy, with its interval."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.seeds import numpy_generator
from tasks.evaluate.scores import Counts
from tasks.stats.intervals import mean_interval


def differences(
    answers: pa.Table, against: pa.Table, confidence: float, resamples: int, seed: int
) -> dict[str, Any]:
    """``answers`` less ``against`` (columns of ``scores.ANSWERS``), sampled and greedy, over the problems of
    which both have a judged answer: ``problems``, and ``mean_at_n`` and ``greedy`` with intervals.

    The bootstrap resamples problems, each with both policies' accuracies, so that what is hard for both
    cancels.
    """
    found: dict[str, Any] = {}
    for name, greedy in (("mean_at_n", False), ("greedy", True)):
        new, old = (_accuracies(table, greedy) for table in (answers, against))
        changes = np.array([new[problem] - old[problem] for problem in old if problem in new], np.float64)
        generator = numpy_generator(seed, "evaluate", 0, "against")
        found[name] = asdict(mean_interval(changes, confidence, resamples, generator))
        found["problems"] = max(found.get("problems", 0), len(changes))
    return found


def _accuracies(answers: pa.Table, greedy: bool) -> dict[str, float]:
    counts = Counts.of(answers.filter(pc.equal(answers["greedy"], pa.scalar(greedy))))
    return dict(zip(counts.problem, counts.accuracy().tolist(), strict=True))
