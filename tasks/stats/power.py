"""How many seeds it takes to see an effect, from the spread between those that there are: statsmodels' power.

The far tail of the two-sided test is left out (one side at half of the level): at a power of 0.8 it holds
nothing, and scipy has NaN for what is next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from statsmodels.stats.power import TTestPower

POWER = 0.8
"""The chance of seeing an effect that is there, for which seeds are counted."""
MOST = 10_000
"""Seeds beyond which nobody asks how many more."""


def seeds_needed(differences: Sequence[float], alpha: float) -> int | None:
    """Pairs of runs with which a paired t-test at level ``alpha`` sees the difference four times in five.

    The difference and its spread between seeds are those observed. None where there is no telling: fewer than
    two pairs, no difference, or more than ``MOST`` pairs. Two where the spread is nothing beside it.
    """
    spread, effect = _spread(differences), abs(float(np.mean(differences)))
    if spread is None or effect == 0:
        return None
    test = TTestPower()
    size = effect / max(spread, 1e-9 * effect)
    if test.power(size, 2, alpha / 2, alternative="larger") >= POWER:
        return 2
    if test.power(size, MOST, alpha / 2, alternative="larger") < POWER:
        return None
    pairs: float = test.solve_power(size, alpha=alpha / 2, power=POWER, alternative="larger")
    return math.ceil(pairs)


def detectable(differences: Sequence[float], alpha: float) -> float | None:
    """The smallest difference that as many pairs as these see four times in five; None without spread."""
    spread = _spread(differences)
    if not spread:
        return None
    test = TTestPower()
    test.start_bqexp["effect_size"] = {"low": 1e-9, "upp": 1e6}  # its own bounds end at 10
    size = test.solve_power(nobs=len(differences), alpha=alpha / 2, power=POWER, alternative="larger")
    return spread * float(size)


def _spread(differences: Sequence[float]) -> float | None:
    return float(np.std(differences, ddof=1)) if len(differences) > 1 else None
