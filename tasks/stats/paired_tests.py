"""What a few seeds say of a mean and of a difference: Student's intervals, paired tests, Holm's correction.

Student's t and not a bootstrap, because seeds are few: the percentile bootstrap of five values that says 95 %
covers the mean of a normal in some 84 % of cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tasks.stats.intervals import NOTHING, Interval

ROUNDING = 1e-12
"""Values that differ by less than this share of the largest are equal: their spread is rounding."""


@dataclass(frozen=True)
class Change:
    """The mean difference between two arms over the seeds that both have."""

    interval: Interval
    p: float | None
    """Two-sided, of the paired t-test. None for a single pair, and where every pair differs by the same
    amount: there is no spread to hold the difference against."""
    pairs: int


def student(values: Sequence[float], confidence: float) -> Interval:
    """The mean and its t-interval. One value has no interval; equal values have themselves as theirs."""
    if not len(values):
        return NOTHING
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return Interval(mean, None, None)
    if _equal(numbers):
        return Interval(mean, mean, mean)
    found = stats.ttest_1samp(numbers, 0.0).confidence_interval(confidence)
    return Interval(mean, float(found.low), float(found.high))


def paired(arm: Mapping[int, float], baseline: Mapping[int, float], confidence: float) -> Change:
    """``arm`` minus ``baseline``, each a value a seed, over the seeds of both."""
    seeds = sorted(arm.keys() & baseline.keys())
    differences = np.asarray([arm[seed] - baseline[seed] for seed in seeds], dtype=np.float64)
    interval = student(differences.tolist(), confidence)
    if len(seeds) < 2:
        return Change(interval, None, len(seeds))
    largest = max(abs(side[seed]) for side in (arm, baseline) for seed in seeds)
    if np.abs(differences).max() <= ROUNDING * largest:
        return Change(interval, 1.0, len(seeds))
    if _equal(differences):
        return Change(interval, None, len(seeds))
    return Change(interval, float(stats.ttest_1samp(differences, 0.0).pvalue), len(seeds))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of the p-values that are there, each at its place.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none falls below one before it, and
    none exceeds 1. The chance of any false discovery stays below the level, however the tests depend.
    """
    known = [p for p in p_values if p is not None]
    corrected = iter(multipletests(known, method="holm")[1] if known else ())
    return [None if p is None else float(next(corrected)) for p in p_values]


def _equal(numbers: NDArray[np.float64]) -> bool:
    return bool(np.ptp(numbers) <= ROUNDING * np.abs(numbers).max())
