"""A stage, a method, a reward and a problem source of the user's own: one row, and no other edit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from flows.stage_table.stages import plan, stage_table
from params.base import BadInput
from params.load import compose
from tasks.report.trackers import figures
from tests.flows.conftest import NANO, Workspace, events, outcomes

STAGE = '''
"""How long the answers of a round are."""

from flows.stage_table.stage_def import StageDef, StageInput
from tasks.artefacts.artefact import write_json
from tasks.artefacts.role import Role
from tasks.artefacts.tables import read_table


def lengths(job):
    table = read_table(job.inputs["rollout"].file("rollouts.parquet"))
    longest = max(len(ids) for ids in table["response_ids"].to_pylist())
    write_json(job.out / "metrics.json", {"longest": longest})
    return {"seconds": 0.0}


ROWS = (
    StageDef(
        name="lengths",
        function="mine.stage:lengths",
        role=Role(kind="measure", label="lengths", time_of="evaluation"),
        summary="how long the answers are",
        reads=("seed",),
        inputs={"rollout": StageInput("rollout")},
        libraries=("pyarrow",),
    ),
)
'''
METHOD = '''
"""A softer policy gradient."""

from algorithms.terms import MetricLabel
from params.base import Config as Options

METRICS = (MetricLabel("pull", "Pull", "mean"),)


class Config(Options):
    strength: float = 0.5


def token_loss(logp, behaviour_logp, advantage, sequence, config):
    loss = -config.strength * advantage * (logp - behaviour_logp).exp()
    return loss, {"pull": (config.strength * advantage).abs()}
'''
REWARD = """
def right(gold, answer):
    return float(answer.strip() == gold)
"""
SOURCE = '''
"""Sums of ones."""

from params.base import Config as Options
from tasks.problems.rows import table


class Config(Options):
    terms: int = 40


def read(config, task, seed):
    found = table(_row(i + 2) for i in range(task.train_count + task.held_out_count))
    return found.slice(0, task.train_count), found.slice(task.train_count)


def _row(terms):
    question, answer = " + ".join(["1"] * terms) + " =", str(terms)
    facts = {"level": 1, "source": "ones"}
    return {"problem_id": f"ones-{terms}", "question": question, "answer": answer, **facts}
'''
MINE = [
    *NANO,
    *("--set", "stages=[mine.stage]"),
    *("--set", "method.objective={name: mine.method, strength: 0.7}"),
    *("--set", "task.reward=mine.reward:right"),
    *("--set", "task.problems={name: mine.source}"),
    *("--set", "task.train_count=12", "--set", "task.held_out_count=4", "--set", "model.context=160"),
]


@pytest.fixture
def mine(empty: Workspace) -> Workspace:
    """A workspace with a package ``mine`` in it."""
    package = empty.root / "mine"
    package.mkdir()
    for name, text in (("stage", STAGE), ("method", METHOD), ("reward", REWARD), ("source", SOURCE)):
        (package / f"{name}.py").write_text(text)
    return empty


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(600)
def test_what_is_mine_is_seen_everywhere(mine: Workspace) -> None:
    made = outcomes(events(mine.call("run", "--name", "it", "--json", *MINE).stdout))
    assert {place for place in made if place.endswith("/lengths")} == {"round-01/lengths", "round-02/lengths"}
    assert set(made.values()) == {"made"}

    directory = mine.root / "runs" / "it"
    page = (directory / "report.html").read_text()
    assert "lengths" in page, "its time"
    assert "Last lengths" in page, "the lineage"
    assert "Pull" in page, "the method's own metric"
    found = figures(directory)
    assert found[1]["lengths/longest"] > 0
    assert found[1]["update/pull"] > 0
    status = json.loads(mine.call("status", "it", "--json").stdout)
    assert [row["state"] for row in status["stages"] if row["stage"] == "lengths"] == ["done", "done"]

    assert set(outcomes(events(mine.call("run", "--name", "it", "--json", *MINE).stdout)).values()) == {
        "cached"
    }
    for name, text, first in (
        ("stage", STAGE.replace("How long", "HOW LONG"), None),
        ("stage", STAGE.replace("max(", "min("), "round-01/lengths"),
        ("method", METHOD.replace("-config.strength", "-2 * config.strength"), "round-01/update"),
    ):
        (mine.root / "mine" / f"{name}.py").write_text(text)
        again = outcomes(events(mine.call("run", "--name", "it", "--json", *MINE).stdout))
        assert next((place for place, outcome in again.items() if outcome == "made"), None) == first

    engine = [part for part in MINE if part not in ("--engine", "transformers")]
    mine.call("dvc", *engine, "--set", "engine.name=transformers", "--name", "it")
    stages = yaml.safe_load((mine.root / "dvc.yaml").read_text())["stages"]
    body = stages["lengths"]["do"]
    assert "mine/stage.py" in body["deps"]
    assert "runs/it/round-${key}/rollout" in body["deps"]
    assert "mine/source.py" in stages["problems"]["deps"]


def test_a_module_without_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no_rows_in_here.py").write_text("ROWS = 1\n")
    with pytest.raises(BadInput, match=r"stages: no_rows_in_here has no ROWS; expected a tuple of StageDef"):
        stage_table(("no_rows_in_here",))
    with pytest.raises(BadInput, match=r"stages: no module 'not_there'; expected not_there\.py"):
        plan(compose("nano", "sums", "grpo", ["stages=[not_there]"]))


def test_a_second_row_of_one_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twice_a_rollout.py").write_text(
        "from flows.stage_table.stages import stage_table\nROWS = (stage_table()['rollout'],)\n"
    )
    with pytest.raises(BadInput, match="twice_a_rollout has a second row 'rollout'"):
        stage_table(("twice_a_rollout",))


@pytest.mark.parametrize(
    ("number", "change", "said"),
    [
        (1, ('StageInput("rollout")', 'StageInput("rolout")'), "input 'rolout'; did you mean 'rollout'"),
        (2, ('("seed",)', '("sede",)'), "reads 'sede'; did you mean 'seed'"),
        (
            3,
            ('("seed",)', '("rollout.temprature",)'),
            "reads 'rollout.temprature'; did you mean 'temp",
        ),
        (4, ('evaluation")', 'evaluation", makes_policy=True)'), "makes the policy of each round, as"),
    ],
)
def test_a_row_that_cannot_be_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, change: tuple[str, str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert change[0] in STAGE
    (tmp_path / f"wrong_row_{number}.py").write_text(STAGE.replace(*change))
    with pytest.raises(BadInput, match=f"stages: lengths: {said}") as refused:
        plan(compose("nano", "sums", "grpo", [f"stages=[wrong_row_{number}]"]))
    assert "\n" not in str(refused.value)
