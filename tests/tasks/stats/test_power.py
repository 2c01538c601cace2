"""Seeds needed and differences that can be seen, against an integral."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from tasks.stats.power import POWER, detectable, seeds_needed

QUANTILES = (np.arange(20_000) + 0.5) / 20_000


def power(effect: float, spread: float, pairs: int, alpha: float) -> float:
    """Of a two-sided paired t-test: the normal chance, averaged over what the estimated spread may be."""
    edge = stats.t.ppf(1 - alpha / 2, pairs - 1) * np.sqrt(stats.chi2.ppf(QUANTILES, pairs - 1) / (pairs - 1))
    shift = effect / spread * np.sqrt(pairs)
    return float(np.mean(stats.norm.sf(edge - shift) + stats.norm.cdf(-edge - shift)))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-0.2, 0.3).map(lambda x: round(x, 3)), min_size=2, max_size=6),
    st.sampled_from([0.05, 0.0125]),
)
def test_the_least_number_of_seeds_that_suffices(differences: list[float], alpha: float) -> None:
    effect, spread = abs(float(np.mean(differences))), float(np.std(differences, ddof=1))
    assume(effect > 0 and 0.2 * effect < spread < 5 * effect)
    found = seeds_needed(differences, alpha)
    assert found is not None
    assert power(effect, spread, found, alpha) > POWER - 1e-3
    assert found == 2 or power(effect, spread, found - 1, alpha) < POWER + 1e-3


def test_where_there_is_no_telling_nothing_is_told() -> None:
    assert seeds_needed([0.1], 0.05) is None
    assert seeds_needed([0.1, -0.1], 0.05) is None
    assert seeds_needed([1e-6, -0.02, 0.0200001], 0.05) is None
    assert seeds_needed([0.1, 0.1, 0.1], 0.05) == 2
    assert detectable([0.1], 0.05) is None
    assert detectable([0.1, 0.1], 0.05) is None


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("differences", [[0.01, 0.03], [0.0, 0.02, 0.05], [0.01, 0.02, -0.03, 0.04, 0.0]])
def test_what_can_be_seen_is_seen_four_times_in_five(differences: list[float], alpha: float) -> None:
    found = detectable(differences, alpha)
    assert found is not None
    spread = float(np.std(differences, ddof=1))
    assert power(found, spread, len(differences), alpha) == pytest.approx(POWER, abs=1e-3)
