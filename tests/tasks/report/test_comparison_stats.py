"""What is asked of the runs of a comparison: figures with one value per run, best rounds, collapses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from params.base import validate
from params.comparison import Comparison
from tasks.report.comparison.data import ACCURACY
from tasks.report.comparison.stats import Results
from tasks.report.comparison.tables import tables
from tasks.report.comparison.words import missing, verdict
from tests.tasks.report.synthetic_comparison import in_memory

REWARD = "rollout.reward_mean"
SEEDS: dict[str, dict[int, list[float | None]]] = {
    "grpo": {0: [0.2, 0.5, 0.6], 1: [0.2, 0.4, 0.5], 2: [0.2, 0.6, 0.7]},
    "drpo": {0: [0.2, 0.6, 0.8], 1: [0.2, 0.5, 0.65], 2: [0.2, 0.6, 0.75]},
    "wild": {0: [0.2, 0.8, 0.3], 1: [0.2, 0.7, None], 2: [0.2, 0.5]},
}
"""A figure by arm, seed and round. ``wild``: one below half of its best, one not finite, one diverged."""


def results(seeds: Any = SEEDS, **more: Any) -> Results:
    values = {
        "title": "Arms",
        "question": "Which?",
        "arms": {arm: {} for arm in seeds},
        "seeds": 3,
        "rounds": 2,
        "baseline": "grpo",
        "metrics": {REWARD: {"label": "reward", "percent": True, "better": "higher"}},
    }
    held = {arm: {s: {ACCURACY: v, REWARD: v} for s, v in by_seed.items()} for arm, by_seed in seeds.items()}
    return in_memory(validate(Comparison, values | more), held)


def test_a_figure_with_one_value_per_run_has_students_interval_and_the_paired_test() -> None:
    data = results()
    final = data.final("grpo", REWARD)
    assert final is not None
    assert final.value == pytest.approx(0.6)
    expected = stats.ttest_1samp([0.6, 0.5, 0.7], 0).confidence_interval(0.95)
    assert final.interval.low == pytest.approx(expected.low)
    found = data.effects[REWARD]
    paired = stats.ttest_rel([0.8, 0.65, 0.75], [0.6, 0.5, 0.7])
    assert found["drpo"].estimate.value == pytest.approx(0.4 / 3)
    assert found["drpo"].estimate.p == pytest.approx(paired.pvalue)
    assert found["drpo"].p_holm == pytest.approx(paired.pvalue)  # wild has a single pair, so no test
    assert found["wild"].estimate.seeds == 1
    assert "grpo" not in found


def test_what_is_held_out_has_the_bootstrap_under_its_own_name() -> None:
    data = results(metrics={"evaluate.mean_at_n": {"label": "held-out accuracy"}})
    assert list(data.metrics) == [ACCURACY]
    assert data.metrics[ACCURACY].label == "held-out accuracy"
    students = stats.ttest_1samp([0.6, 0.5, 0.7], 0).confidence_interval(0.95)
    final = data.final("grpo", ACCURACY)
    assert final is not None
    assert final.interval.low == pytest.approx(students.low, rel=0.05)  # but for the chance of the draws


def test_a_curve_goes_over_the_rounds_that_every_seed_has() -> None:
    points = results().curve("grpo", REWARD)
    assert [point.at["round"] for point in points] == [0, 1, 2]
    assert [point.estimate.value for point in points] == pytest.approx([0.2, 0.5, 0.6])


def test_the_best_round_is_each_seeds_own() -> None:
    best = results().best("wild", REWARD)
    assert best is not None
    assert best.value == pytest.approx(np.mean([0.8, 0.7, 0.5]))
    lower = results(metrics={REWARD: {"better": "lower"}}).best("wild", REWARD)
    assert lower is not None
    assert lower.value == pytest.approx(0.2)
    assert "best" in tables(results())
    assert "best" not in tables(results(metrics={REWARD: {}}))


@pytest.mark.parametrize("accuracy", ["evaluate.mean_at_n", REWARD])
def test_collapsed_is_half_of_the_best_not_finite_or_diverged(accuracy: str) -> None:
    data = results(accuracy=accuracy)
    assert {arm: data.collapsed(arm) for arm in SEEDS} == {"grpo": 0.0, "drpo": 0.0, "wild": 1.0}
    falling = {"grpo": {0: [0.4, 0.4, 0.2], 1: [0.4, 0.4, 0.19]}}
    assert results(falling, accuracy=accuracy).collapsed("grpo") == 0.5
    assert results({"grpo": {0: [0.0, 0.0, 0.0]}}, accuracy=accuracy).collapsed("grpo") == 0.0


def test_a_figure_that_no_run_has_is_named_with_the_nearest() -> None:
    said = missing(results(metrics={"rollout.reward_maen": {}}))
    assert said == ["rollout.reward_maen: no run has this metric; did you mean 'rollout.reward_mean'?"]


def test_one_arm_is_told_of_by_itself_and_a_baseline_that_failed_is_named() -> None:
    assert verdict(results({"grpo": SEEDS["grpo"]}), "2 rounds") == (
        "grpo alone: 60.0% of its held-out answers are right after 2 rounds."
    )
    data = results()
    gone = Results(data.comparison, [run for run in data.runs if run.arm != "grpo"])
    assert verdict(gone, "2 rounds") == "Nothing can be compared: no run of grpo came to its end."
    assert set(tables(gone)) == {"results", "best", "cost"}
