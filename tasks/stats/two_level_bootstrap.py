"""A two-level bootstrap: seeds are drawn again and, within each, problems; the same draws for everything.

What two methods made of a seed shares its model, its problems and its first rollouts, so a difference between
them is drawn as one: the noise that they have in common falls out. (Resampling clusters and what is in them:
Davison and Hinkley 1997, section 3.8.)

The draws give a standard error and not, by percentiles, the interval itself: seeds are few, and percentiles
of a few values do not reach far enough (three seeds lie on one side of their mean in a quarter of all cases,
which no percentile of theirs covers). Bootstrapping n seeds finds (n - 1)/n of their variance: the error is
multiplied by sqrt(n / (n - 1)), and the interval takes Student's quantile with n - 1 degrees of freedom. The
part that the problems add makes it a little wider than Student's interval on the seeds' means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tasks.stats.intervals import ROUNDING, Estimate, Interval

Floats = NDArray[np.float64]


class Draws:
    """Draws of seeds and problems for a study, made once."""

    def __init__(self, problems: Mapping[int, int], count: int, generator: np.random.Generator) -> None:
        """``problems``: how many each seed has; ``count``: draws."""
        self.seeds = tuple(sorted(problems))
        self.count = count
        size = len(self.seeds)
        drawn = generator.integers(0, max(size, 1), size=(count, size))
        self._seeds: Floats = np.stack([(drawn == place).sum(1) for place in range(size)], 1).astype(float)
        self._problems: list[NDArray[np.float32]] = []
        for place, seed in enumerate(self.seeds):
            amount = problems[seed]
            # A seed that is drawn m times has m samples of its problems, which is one of m times the size.
            times = (self._seeds[:, place] * amount).astype(np.int64)
            even = np.full(amount, 1.0 / amount)
            self._problems.append(generator.multinomial(times, even).astype(np.float32))

    def means(self, seed: int, values: Floats) -> tuple[Floats, Floats]:
        """Of one seed: the mean of ``values`` [P] in each draw, and how often the seed is in it; [B] both.

        A problem without a value (NaN) counts in no mean.
        """
        place = self.seeds.index(seed)
        known = ~np.isnan(values)
        weights = self._problems[place]
        sums = weights @ np.where(known, values, 0.0)
        counts = weights @ known.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.where(counts > 0, sums / counts, 0.0)
        return means, self._seeds[:, place] * (counts > 0)

    def estimate(self, values: Mapping[int, Floats], confidence: float) -> Estimate | None:
        """The mean over seeds of each seed's mean over its problems; None without any value.

        For a difference between methods, hand in the differences, problem by problem.
        """
        usable = {seed: v for seed, v in values.items() if not np.isnan(v).all()}
        if not usable:
            return None
        by_seed = np.array([np.nanmean(v) for v in usable.values()])
        mean = float(by_seed.mean())
        if len(usable) < 2:
            return Estimate(mean, None, Interval(mean, None, None), None, 1)
        seeds = len(usable)
        error = float(self._replicates(usable).std()) * math.sqrt(seeds / (seeds - 1))
        if error <= ROUNDING * max(abs(mean), ROUNDING):  # every seed and problem says the same
            return Estimate(mean, 0.0, Interval(mean, mean, mean), 1.0 if mean == 0 else None, seeds)
        reach = float(stats.t.ppf((1 + confidence) / 2, seeds - 1)) * error
        p = float(2 * stats.t.sf(abs(mean) / error, seeds - 1))
        return Estimate(mean, error, Interval(mean, mean - reach, mean + reach), p, seeds)

    def _replicates(self, values: Mapping[int, Floats]) -> Floats:
        total = np.zeros(self.count)
        weight = np.zeros(self.count)
        for seed, numbers in values.items():
            means, times = self.means(seed, numbers)
            total += means * times
            weight += times
        return total[weight > 0] / weight[weight > 0]


def seed_means(values: Mapping[int, Floats]) -> dict[int, float]:
    """Each seed's mean over the problems that have a value."""
    return {seed: float(np.nanmean(v)) for seed, v in values.items() if not np.isnan(v).all()}


def difference(one: Mapping[int, Floats], other: Mapping[int, Floats]) -> dict[int, Floats]:
    """``one`` minus ``other``, problem by problem, of the seeds that both have."""
    return {seed: one[seed] - other[seed] for seed in one if seed in other}
