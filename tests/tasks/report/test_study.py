"""A study's statistics against scipy and closed forms, its curves from real artefacts, its page."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from params.base import validate
from params.lab import Lab
from tasks.artefacts.artefact import Damaged
from tasks.artefacts.tables import read_table
from tasks.report.study.page import missing, write
from tasks.report.study.study import CURVES, Outcome, Study, curves, flattened
from tasks.stats.intervals import Interval
from tasks.stats.paired_tests import holm, paired, student
from tests.tasks.report.synthetic_run import SyntheticRun

ACCURACY = "evaluate.mean_at_n"
SEEDS = {
    "grpo": {0: [0.2, 0.5, 0.6], 1: [0.2, 0.4, 0.5], 2: [0.2, 0.6, 0.7]},
    "drpo": {0: [0.2, 0.6, 0.8], 1: [0.2, 0.5, 0.65], 2: [0.2, 0.6, 0.75]},
    "wild": {0: [0.2, 0.8, 0.3], 1: [0.2, 0.7, None], 2: [0.2, 0.5]},
}
"""Accuracy by arm, seed and round. ``wild``: one below half of its best, one not finite, one diverged."""


def a_lab(**more: Any) -> Lab:
    values = {
        "title": "A study",
        "question": "Which?",
        "arms": {arm: {} for arm in SEEDS},
        "seeds": 3,
        "rounds": 2,
        "baseline": "grpo",
        "metrics": {ACCURACY: {"label": "accuracy", "percent": True, "better": "higher"}},
    }
    return validate(Lab, values | more)


def a_study(lab: Lab | None = None, seeds: Any = SEEDS) -> Study:
    rows = [
        (arm, seed, ACCURACY, round, value)
        for arm, by_seed in seeds.items()
        for seed, values in by_seed.items()
        for round, value in enumerate(values)
    ]
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=CURVES)
    outcomes = [
        Outcome(arm, seed, Path(), 2, len(values) < 3)
        for arm, s in seeds.items()
        for seed, values in s.items()
    ]
    return Study(lab or a_lab(), outcomes, table)


def test_students_interval_is_the_textbooks() -> None:
    values = [0.61, 0.52, 0.70, 0.58, 0.66]
    found = student(values, 0.9)
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(5)
    assert found.value == pytest.approx(mean)
    assert found.low == pytest.approx(mean - 2.131847 * error, rel=1e-6)  # t of 4 degrees at 95 %
    assert found.high == pytest.approx(mean + 2.131847 * error, rel=1e-6)


def test_an_interval_needs_two_seeds_and_equal_seeds_have_none_around_them() -> None:
    assert student([], 0.95) == Interval(None, None, None)
    assert student([0.4], 0.95) == Interval(0.4, None, None)
    assert student([0.1 + 0.2, 0.3, 0.3], 0.95).low == pytest.approx(0.3)
    assert student([0.0, 0.0], 0.95) == Interval(0.0, 0.0, 0.0)


def test_the_paired_test_is_scipys_on_the_seeds_that_both_have() -> None:
    arm, baseline = {0: 0.8, 1: 0.65, 2: 0.75, 7: 0.1}, {2: 0.7, 1: 0.5, 0: 0.6, 9: 0.9}
    found = paired(arm, baseline, 0.95)
    expected = stats.ttest_rel([0.8, 0.65, 0.75], [0.6, 0.5, 0.7])
    assert found.pairs == 3
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval.low == pytest.approx(expected.confidence_interval(0.95).low)
    assert found.interval.high == pytest.approx(expected.confidence_interval(0.95).high)


def test_differences_without_spread_have_no_p_value() -> None:
    assert paired({0: 0.5, 1: 0.4}, {0: 0.4, 1: 0.3}, 0.95).p is None
    assert paired({0: 0.5, 1: 0.4}, {0: 0.5, 1: 0.4}, 0.95).p == 1.0
    assert paired({0: 0.3, 1: 0.4}, {0: 0.1 + 0.2, 1: 0.4}, 0.95).p == 1.0
    assert paired({0: 0.0, 1: 0.0}, {0: 0.0, 1: 0.0}, 0.95).p == 1.0
    assert paired({0: 0.5}, {0: 0.4}, 0.95).p is None
    assert paired({0: 0.5}, {1: 0.4}, 0.95).interval.value is None


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.03, None, 0.02]) == [None, pytest.approx(0.04), None, pytest.approx(0.04)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@settings(max_examples=25)  # statsmodels takes its time
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_no_correction_and_bonferronis_and_keeps_the_order(p_values: list[float]) -> None:
    found = [p for p in holm(p_values) if p is not None]
    assert len(found) == len(p_values)
    for p, adjusted in zip(p_values, found, strict=True):
        assert p <= adjusted <= min(1.0, p * len(p_values))
    order = np.argsort(p_values, kind="stable")
    assert all(a <= b for a, b in zip(np.array(found)[order], np.array(found)[order][1:], strict=False))


def test_figures_are_flattened() -> None:
    scores = {
        "round": 3,
        "mean_at_n": {"value": 0.5, "low": 0.4, "high": 0.6},
        "pass_at": {
            "1": {"value": 0.5, "low": 0.4, "high": 0.6},
            "4": {"value": None, "low": None, "high": None},
        },
        "levels": {"2": {"problems": 7, "value": 0.5, "low": 0.4, "high": 0.6}},
        "rank_probabilities": [0.7, 0.2],
        "entropy": 1.5,
        "loss": None,
        "policy": "a name",
        "reward_errors": {"no number in the answer": 3},
        "cohorts": {"1": {"kept": 4}},
    }
    assert dict(flattened("evaluate", scores)) == {
        "evaluate.mean_at_n": 0.5,
        "evaluate.pass_at.1": 0.5,
        "evaluate.pass_at.4": None,
        "evaluate.levels.2": 0.5,
        "evaluate.rank_probabilities.1": 0.7,
        "evaluate.rank_probabilities.2": 0.2,
        "evaluate.entropy": 1.5,
        "evaluate.loss": None,
    }
    assert dict(flattened("update", {"a": math.inf})) == {"update.a": None}
    assert dict(flattened("update", {"dyjr.js": 0.5, "not. a name": 1})) == {"update.dyjr.js": 0.5}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    root = tmp_path_factory.mktemp("study")
    places = [SyntheticRun(root / f"it-grpo-s{seed}", rounds=5, seed=seed).write() for seed in (0, 1)]
    return [Outcome("grpo", seed, place, 5, False) for seed, place in enumerate(places)]


def test_curves_hold_every_figure_of_every_round(outcomes: list[Outcome]) -> None:
    table = curves(outcomes)
    assert table.schema == CURVES
    rows = {tuple(row[n] for n in ("seed", "metric", "round")): row["value"] for row in table.to_pylist()}
    assert len(rows) == table.num_rows
    for outcome in outcomes:
        for round in (0, 5):
            scores = json.loads((outcome.directory / f"round-{round:02d}/evaluate/scores.json").read_text())
            assert rows[outcome.seed, ACCURACY, round] == scores["mean_at_n"]["value"]
            assert rows[outcome.seed, "evaluate.pass_at.4", round] == scores["pass_at"]["4"]["value"]
        for round in range(1, 6):
            update = json.loads((outcome.directory / f"round-{round:02d}/update/metrics.json").read_text())
            assert rows[outcome.seed, "update.loss", round] == update["loss"]
            assert rows[outcome.seed, "update.measured.stage_seconds", round] is not None


def test_a_changed_file_is_not_read(tmp_path: Path) -> None:
    place = SyntheticRun(tmp_path / "it-grpo-s0", rounds=2).write()
    path = place / "round-01" / "update" / "metrics.json"
    path.write_text(path.read_text().replace("1", "2"))
    with pytest.raises(Damaged, match=re.escape(str(path))):
        curves([Outcome("grpo", 0, place, 2, False)])


def test_the_summary_compares_with_the_baseline() -> None:
    found = a_study().summary()["metrics"][ACCURACY]["arms"]
    assert found["grpo"]["final"]["value"] == pytest.approx(0.6)
    assert found["grpo"]["final"]["by_seed"] == {"0": 0.6, "1": 0.5, "2": 0.7}
    assert "change" not in found["grpo"]
    expected = stats.ttest_rel([0.8, 0.65, 0.75], [0.6, 0.5, 0.7])
    change = found["drpo"]["change"]
    assert change["value"] == pytest.approx(0.4 / 3)
    assert change["p"] == pytest.approx(expected.pvalue)
    assert change["p_holm"] == pytest.approx(expected.pvalue)  # wild has a single pair, so no test
    assert found["wild"]["change"]["pairs"] == 1
    assert found["wild"]["best"]["by_seed"] == {"0": 0.8, "1": 0.7, "2": 0.5}


def test_collapsed_is_half_of_the_best_not_finite_or_diverged() -> None:
    study = a_study()
    assert {arm: study.collapsed(arm) for arm in SEEDS} == {"grpo": 0.0, "drpo": 0.0, "wild": 1.0}
    assert a_study(seeds={"grpo": {0: [0.4, 0.4, 0.2], 1: [0.4, 0.4, 0.19]}}).collapsed("grpo") == 0.5
    assert a_study(seeds={"grpo": {0: [0.0, 0.0, 0.0]}}).collapsed("grpo") == 0.0


def test_the_page_has_its_tables_charts_and_what_went_wrong(tmp_path: Path) -> None:
    metrics = {
        ACCURACY: {"label": "accuracy", "percent": True, "better": "higher"},
        "evaluate.entropi": {"table": False},
        "evaluate.mean_at_m": {"better": "lower"},
    }
    run = {"name": "it-wild-s2", "outcome": "diverged", "why": "3 steps were refused"}
    facts = {"name": "it", "command": "ostinato lab it", "runs": [run, {**run, "why": ""}]}
    write(a_study(a_lab(metrics=metrics)), facts, tmp_path)
    page = (tmp_path / "summary.md").read_text()
    assert "| grpo | 60.0% [35.2%, 84.8%] | – | 0% | 3 |" in page
    assert re.search(r"\| drpo \| \+13\.3 \[−5\.\d, \+32\.\d\], p 0\.0\d+ \|", page)
    assert "- it-wild-s2 diverged: 3 steps were refused" in page
    assert "- evaluate.mean_at_m: no run has this metric; did you mean 'evaluate.mean_at_n'?" in page
    assert page.count("3 steps were refused") == 1
    assert f"![accuracy]({ACCURACY}.svg)" in page
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"curves.parquet", "summary.json", "summary.md", f"{ACCURACY}.svg"}
    root = ElementTree.parse(tmp_path / f"{ACCURACY}.svg").getroot()
    assert {"grpo", "drpo", "wild"} <= {element.text for element in root.iter() if element.text}
    assert read_table(tmp_path / "curves.parquet").num_rows == 26
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["missing"] == missing(a_study(a_lab(metrics=metrics)))
    assert summary["arms"]["wild"] == {
        "method": "grpo", "set": [], "seeds": 3, "diverged": 1, "collapsed": 1.0,
    }  # fmt: skip


def test_a_metric_with_one_round_is_not_drawn(tmp_path: Path) -> None:
    study = a_study(a_lab(), {"grpo": {0: [0.4], 1: [0.5]}})
    write(study, {"name": "it", "command": "", "runs": []}, tmp_path)
    assert not list(tmp_path.glob("*.svg"))
    assert "Against" not in (tmp_path / "summary.md").read_text()
