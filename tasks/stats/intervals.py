"""How far a mean can be trusted: what an estimate is, and percentile bootstrap intervals over problems."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap


@dataclass(frozen=True)
class Interval:
    """A mean and the interval around it; ``None`` where there was nothing to average."""

    value: float | None
    low: float | None
    high: float | None

    def named(self, name: str) -> dict[str, float | None]:
        """The three by ``NAME``, ``NAME_low`` and ``NAME_high``."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


NOTHING = Interval(None, None, None)
ROUNDING = 1e-12
"""Values that differ by less than this share of the largest are equal: their spread is rounding."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, or a difference of two, with its interval and test against 0."""

    value: float
    error: float | None
    """Standard error, made good for the few seeds; None for one seed."""
    interval: Interval
    p: float | None
    """Two-sided, by Student's t. None where there is one seed, or no spread at all around a value."""
    seeds: int


def mean_interval(
    values: NDArray[np.float64], confidence: float, resamples: int, generator: np.random.Generator
) -> Interval:
    """The mean of one value a problem, and its percentile bootstrap interval over problems.

    A constant has that constant as its interval, and so has a single problem.
    """
    if not len(values):
        return NOTHING
    if (values == values[0]).all():
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=generator,
        batch=max(1, 4_000_000 // len(values)),
    ).confidence_interval
    return Interval(float(values.mean()), float(found.low), float(found.high))
