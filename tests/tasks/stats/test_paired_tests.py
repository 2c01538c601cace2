"""Means and differences over seeds against scipy and closed forms; Holm's correction and its laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tasks.stats.intervals import Estimate, Interval
from tasks.stats.paired_tests import holm, paired, student


def test_students_interval_is_the_textbooks() -> None:
    values = [0.61, 0.52, 0.70, 0.58, 0.66]
    found = student(dict(enumerate(values)), 0.9)
    assert found is not None
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(5)
    assert found.value == pytest.approx(mean)
    assert found.error == pytest.approx(error)
    assert found.interval.low == pytest.approx(mean - 2.131847 * error, rel=1e-6)  # t of 4 degrees at 95 %
    assert found.interval.high == pytest.approx(mean + 2.131847 * error, rel=1e-6)


def test_an_interval_needs_two_seeds_and_equal_seeds_have_none_around_them() -> None:
    assert student({}, 0.95) is None
    assert student({3: 0.4}, 0.95) == Estimate(0.4, None, Interval(0.4, None, None), None, 1)
    equal = student({0: 0.1 + 0.2, 1: 0.3, 2: 0.3}, 0.95)
    assert equal is not None
    assert equal.interval.low == equal.interval.high == pytest.approx(0.3)
    assert student({0: 0.0, 1: 0.0}, 0.95) == Estimate(0.0, 0.0, Interval(0.0, 0.0, 0.0), 1.0, 2)


def test_the_paired_test_is_scipys_on_the_seeds_that_both_have() -> None:
    arm, baseline = {0: 0.8, 1: 0.65, 2: 0.75, 7: 0.1}, {2: 0.7, 1: 0.5, 0: 0.6, 9: 0.9}
    found = paired(arm, baseline, 0.95)
    assert found is not None
    expected = stats.ttest_rel([0.8, 0.65, 0.75], [0.6, 0.5, 0.7])
    assert found.seeds == 3
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval.low == pytest.approx(expected.confidence_interval(0.95).low)
    assert found.interval.high == pytest.approx(expected.confidence_interval(0.95).high)


@pytest.mark.parametrize(
    ("arm", "baseline", "p"),
    [
        ({0: 0.5, 1: 0.4}, {0: 0.4, 1: 0.3}, None),
        ({0: 0.5, 1: 0.4}, {0: 0.5, 1: 0.4}, 1.0),
        ({0: 0.3, 1: 0.4}, {0: 0.1 + 0.2, 1: 0.4}, 1.0),
        ({0: 0.0, 1: 0.0}, {0: 0.0, 1: 0.0}, 1.0),
        ({0: 0.5}, {0: 0.4}, None),
    ],
)
def test_differences_without_spread_have_no_p_value(
    arm: dict[int, float], baseline: dict[int, float], p: float | None
) -> None:
    found = paired(arm, baseline, 0.95)
    assert found is not None
    assert found.p == p


def test_without_a_seed_that_both_have_there_is_no_difference() -> None:
    assert paired({0: 0.5}, {1: 0.4}, 0.95) is None


def test_holm_is_what_statsmodels_has() -> None:  # which takes seconds: it collects garbage each time
    p_values = np.random.default_rng(0).uniform(0, 0.1, 20)
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.03, None, 0.02]) == [None, pytest.approx(0.04), None, pytest.approx(0.04)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_no_correction_and_bonferronis_and_keeps_the_order(p_values: list[float]) -> None:
    found = [p for p in holm(p_values) if p is not None]
    assert len(found) == len(p_values)
    for p, adjusted in zip(p_values, found, strict=True):
        assert p <= adjusted <= min(1.0, p * len(p_values))
    order = np.argsort(p_values, kind="stable")
    assert all(a <= b for a, b in zip(np.array(found)[order], np.array(found)[order][1:], strict=False))
