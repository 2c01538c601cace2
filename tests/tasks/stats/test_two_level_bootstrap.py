"""The two-level bootstrap against enumeration and loops, its laws, and how often its intervals are right."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.stats.two_level_bootstrap import Draws, Floats, difference, seed_means

VALUES = arrays(np.float64, 5, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0, math.nan]))


def draws(problems: dict[int, int], count: int = 400, seed: int = 3) -> Draws:
    return Draws(problems, count, np.random.default_rng(seed))


@settings(max_examples=30, deadline=None)
@given(st.lists(VALUES, min_size=2, max_size=4))
def test_a_seeds_means_are_those_of_a_loop_over_its_problems(values: list[Floats]) -> None:
    made = draws(dict.fromkeys(range(len(values)), 5), count=20)
    drawn = np.zeros(20)
    for seed, numbers in enumerate(values):
        means, times = made.means(seed, numbers)
        for b in range(20):
            members = np.repeat(numbers, made._problems[seed][b].astype(int))
            assert len(members) % 5 == 0  # as often as the seed was drawn, each time as many as it has
            drawn[b] += len(members) // 5
            known = members[~np.isnan(members)]
            assert times[b] == (len(members) // 5 if len(known) else 0)
            if len(known):
                assert means[b] == pytest.approx(known.mean())
    assert (drawn == len(values)).all()


def test_the_error_is_that_of_every_possible_resample() -> None:
    values = {0: np.array([0.1, 0.7]), 1: np.array([0.4, 0.9])}
    every = [
        np.mean([values[s][list(p)].mean() for s, p in zip(seeds, problems, strict=True)])
        for seeds in itertools.product((0, 1), repeat=2)
        for problems in itertools.product(itertools.product((0, 1), repeat=2), repeat=2)
    ]
    found = draws({0: 2, 1: 2}, count=60_000).estimate(values, 0.95)
    assert found is not None
    assert found.value == pytest.approx(np.mean(every))
    assert found.error == pytest.approx(np.std(every) * math.sqrt(2), rel=0.02)


@pytest.mark.parametrize("case", range(4))
def test_the_error_is_the_closed_form(case: int) -> None:
    """Between the seeds' means, as Student has it, and within each seed over its problems."""
    generator = np.random.default_rng(case)
    values = {seed: generator.random(20 + 5 * seed) for seed in range(5)}
    means = np.array([v.mean() for v in values.values()])
    within = sum(v.var() / len(v) for v in values.values()) / 25
    expected = math.sqrt(means.var(ddof=1) / 5 + within * 5 / 4)
    found = draws({s: len(v) for s, v in values.items()}, count=20_000).estimate(values, 0.95)
    assert found is not None
    assert found.error == pytest.approx(expected, rel=0.03)
    assert found.interval.high - found.value == pytest.approx(2.776445 * found.error, rel=1e-6)


def test_what_two_methods_share_falls_out_of_their_difference() -> None:
    generator = np.random.default_rng(0)
    one = {seed: generator.random(30) + seed for seed in range(4)}
    other = {seed: v - 0.1 for seed, v in one.items()}
    made = draws(dict.fromkeys(range(4), 30))
    apart, paired = made.estimate(one, 0.95), made.estimate(difference(one, other), 0.95)
    assert apart is not None
    assert paired is not None
    assert paired.value == pytest.approx(0.1)
    assert (apart.error or 0) > 0.5
    assert paired.error == 0.0
    assert paired.p is None  # no spread to hold it against
    same = made.estimate(difference(one, one), 0.95)
    assert same is not None
    assert (same.value, same.p) == (0.0, 1.0)


def test_a_problem_or_seed_without_a_value_is_left_out() -> None:
    nothing = math.nan
    one = {0: np.array([1.0, nothing, 0.0]), 1: np.full(3, nothing), 2: np.array([0.5, 0.5, 0.5])}
    assert seed_means(one) == {0: 0.5, 2: 0.5}
    found = draws(dict.fromkeys(range(3), 3)).estimate(one, 0.95)
    assert found is not None
    assert (found.value, found.seeds) == (0.5, 2)
    alone = draws({0: 3}).estimate({0: one[0]}, 0.95)
    assert alone is not None
    assert (alone.value, alone.error, alone.interval.low) == (0.5, None, None)
    assert draws({0: 3}).estimate({0: one[1]}, 0.95) is None


def test_the_same_generator_gives_the_same_interval() -> None:
    values = {seed: np.random.default_rng(seed).random(9) for seed in range(3)}
    first, second = (draws(dict.fromkeys(range(3), 9)).estimate(values, 0.9) for _ in range(2))
    assert first == second


@pytest.mark.long
@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.0), (3, 0.05), (5, 0.02), (5, 0.1)])
def test_intervals_cover_the_truth_as_often_as_they_say(seeds: int, spread: float) -> None:
    """Studies of two methods whose true difference is 0.05, with binomial answers to 24 problems a seed."""
    generator = np.random.default_rng(11)
    studies, covered, reached = 600, 0, 0
    for _ in range(studies):
        made = Draws(dict.fromkeys(range(seeds), 24), 300, generator)
        lead = 0.05 + spread * generator.standard_normal(seeds)
        values = {}
        for seed in range(seeds):
            hard = generator.uniform(0.2, 0.7, 24)
            own = generator.binomial(4, np.clip(hard + lead[seed], 0, 1)) / 4
            values[seed] = own - generator.binomial(4, hard) / 4
        found = made.estimate(values, 0.95)
        assert found is not None
        assert found.interval.low is not None
        assert found.interval.high is not None
        covered += found.interval.low <= 0.05 <= found.interval.high
        replicates = made._replicates(values)
        low, high = np.percentile(replicates, [2.5, 97.5])
        reached += bool(low <= 0.05 <= high)
    assert covered / studies > 0.935
    if spread >= 0.05:  # where the seeds differ more than chance among problems, percentiles fall short
        assert reached < covered
