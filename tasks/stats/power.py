"""How many seeds it takes to see an effect, from the spread between those that there are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats
from scipy.optimize import brentq

POWER = 0.8
"""The chance of seeing an effect that is there, for which seeds are counted."""
MOST = 10_000
"""Seeds beyond which nobody asks how many more."""


def seeds_needed(differences: Sequence[float], alpha: float) -> int | None:
    """Pairs of runs with which a paired t-test at level ``alpha`` sees the difference four times in five.

    The difference and its spread between seeds are those observed. None where there is no telling: fewer than
    two pairs, no difference, or more than ``MOST`` pairs. Two where the spread is nothing beside it.
    """
    spread = _spread(differences)
    if spread is None:
        return None
    effect = abs(float(np.mean(differences)))
    if effect == 0:
        return None
    if spread <= 1e-9 * effect or power_of(effect, spread, 2, alpha) >= POWER:
        return 2
    if power_of(effect, spread, MOST, alpha) < POWER:
        return None
    low, high = 2, MOST  # power rises with the number of pairs: the least that suffices, by halving
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(effect, spread, middle, alpha) >= POWER else (middle, high)
    return high


def detectable(differences: Sequence[float], alpha: float) -> float | None:
    """The smallest difference that as many pairs as these see four times in five; None without spread."""
    spread = _spread(differences)
    if not spread:
        return None
    pairs = len(differences)
    return spread * float(brentq(lambda effect: power_of(effect, 1.0, pairs, alpha) - POWER, 1e-9, 1e6))


def power_of(effect: float, spread: float, pairs: int, alpha: float) -> float:
    """The chance that a two-sided paired t-test with so many pairs sees the effect: noncentral t."""
    edge = stats.t.ppf(1 - alpha / 2, pairs - 1)
    shift = effect / spread * math.sqrt(pairs)
    above, below = stats.nct.sf(edge, pairs - 1, shift), stats.nct.cdf(-edge, pairs - 1, shift)
    return float(
        above + (below if math.isfinite(below) else 0.0)
    )  # scipy has NaN for what is next to nothing


def _spread(differences: Sequence[float]) -> float | None:
    return float(np.std(differences, ddof=1)) if len(differences) > 1 else None
