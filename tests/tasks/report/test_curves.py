"""The figures of a run, from real artefacts, and as one table."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from tasks.artefacts.artefact import Damaged
from tasks.report.curves import CURVES, curves, figures_of, flattened
from tests.tasks.report.synthetic_run import SyntheticRun


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
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [SyntheticRun(root / f"it-grpo-s{seed}", rounds=5, seed=seed).write() for seed in (0, 1)]


def test_curves_hold_every_figure_of_every_round(runs: list[Path]) -> None:
    table = curves(("grpo", seed, figures_of(run)) for seed, run in enumerate(runs))
    assert table.schema == CURVES
    rows = {tuple(row[n] for n in ("seed", "metric", "round")): row["value"] for row in table.to_pylist()}
    assert len(rows) == table.num_rows
    for seed, run in enumerate(runs):
        for round in (0, 5):
            scores = json.loads((run / f"round-{round:02d}/evaluate/scores.json").read_text())
            assert rows[seed, "evaluate.mean_at_n", round] == scores["mean_at_n"]["value"]
            assert rows[seed, "evaluate.pass_at.4", round] == scores["pass_at"]["4"]["value"]
        for round in range(1, 6):
            update = json.loads((run / f"round-{round:02d}/update/metrics.json").read_text())
            assert rows[seed, "update.loss", round] == update["loss"]
            assert rows[seed, "update.measured.stage_seconds", round] is not None


def test_a_changed_file_is_not_read(tmp_path: Path) -> None:
    place = SyntheticRun(tmp_path / "it-grpo-s0", rounds=2).write()
    path = place / "round-01" / "update" / "metrics.json"
    path.write_text(path.read_text().replace("1", "2"))
    with pytest.raises(Damaged, match=re.escape(str(path))):
        figures_of(place)
