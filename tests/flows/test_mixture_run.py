"""A run on several tasks, through the command line: it learns and resumes exactly, as does a curriculum."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.artefacts.record import Record
from tests.flows.conftest import NANO, ROOT, Workspace, environment_of, kill_inside

MIXED = [*NANO, "--task", "sums", "--set", "tasks=[countdown]"]

LEARNS = [
    *("run", "--model", "nano", "--task", "sql-short"),
    *("--set", "tasks={sums: {}, countdown: {held_out_count: 96}}"),
    *("--set", "model.warm_start_steps=900"),
    *("--set", "rollout.problems_per_round=48"),
    *("--set", "method.aggregation=sequence_mean"),
    *("--set", "update.minibatches=2"),
    *("--set", "rounds=24"),
    *("--set", "evaluate.every=24"),
    *("--set", "evaluate.scored_problems=0"),
]
"""The command of docs/mixtures.md."""


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_mixture_learns_each_of_its_tasks_on_held_out_problems(empty: Workspace) -> None:
    page = (ROOT / "docs" / "mixtures.md").read_text().replace("\\\n", " ").replace("'", "")
    assert " ".join(["ostinato", *LEARNS]) in " ".join(page.split())
    process = empty.start(*LEARNS, "--name", "it", "--engine", "transformers", "--set", "threads=1", "--json")
    _, trouble = process.communicate(timeout=3500)
    assert process.returncode == 0, trouble
    directory = empty.root / "runs" / "it"
    said = json.loads((directory / "metrics.json").read_text())
    gains = {"sql": said["accuracy"], **said["sets_and_tasks"]}
    assert set(gains) == {"sql", "sums", "countdown"}
    for name, gain in gains.items():
        assert gain["change_low"] > 0, (name, gain)
        assert gain["after"] > gain["before"] > 0, (name, gain)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_mixture_resumes_to_the_same_bytes(
    empty: Workspace, tmp_path: Path, prefect_server: dict[str, str]
) -> None:
    begin = ("run", "--name", "it", "--json", *MIXED)
    empty.call(*begin)
    directory = empty.root / "runs" / "it"
    seconds = {step.stage: step.seconds for step in Record.read(directory).steps}
    for round in (1, 2):
        rollout = directory / f"round-{round:02d}" / "rollout"
        asked = pq.read_table(rollout / "rollouts.parquet").to_pydict()
        of = dict(zip(asked["problem_id"], asked["task"], strict=True))
        assert sorted(of.values()) == ["countdown", "countdown", "main", "main"]
        told = json.loads((rollout / "metrics.json").read_text())
        assert {"main", "countdown"} <= set(told)
    page = (directory / "report.html").read_text()
    assert "countdown" in page
    again = Workspace(tmp_path / "again", environment_of(tmp_path / "again", prefect_server))
    again.root.mkdir()
    chance = random.Random(5)
    for stage in ("rollout", "evaluate-countdown", "update"):
        kill_inside(again.start(*begin), stage, chance.random() * seconds[stage])
    again.call(*begin)
    assert again.policy() == empty.policy()


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(600)
def test_a_task_has_a_method_and_a_curriculum_of_its_own(empty: Workspace) -> None:
    (empty.root / "mine.py").write_text("def odd(gold, answer):\n    return float(len(answer) % 2)\n")
    empty.environment["PYTHONPATH"] += f":{empty.root}"
    own = [
        *("train_count=32", "reward=mine:odd", "curriculum={samples_per_problem: 2, latest_rounds: 2}"),
        "method.objective.clip_high=0.4",
    ]
    settings = [part for each in own for part in ("--set", f"tasks.countdown.{each}")]
    empty.call("run", "--name", "it", "--json", *MIXED, *settings)
    directory = empty.root / "runs" / "it"
    rates = pq.read_table(directory / "round-02" / "rollout" / "rates-countdown.parquet")
    assert sum(rates["asked"].to_pylist()) == 4
    assert not (directory / "round-02" / "rollout" / "rates.parquet").exists()
    told = json.loads((directory / "round-02" / "update" / "metrics.json").read_text())
    assert told["countdown.clip_fraction"] >= 0.0
    assert "countdown by grpo of its own" in (directory / "report.html").read_text()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_curriculum_that_follows_the_policy_resumes_to_the_same_bytes(
    empty: Workspace, tmp_path: Path, prefect_server: dict[str, str]
) -> None:
    """Killed in the second round's rollout, which reads the first one's pass rates."""
    follows = ["--set", "curriculum={samples_per_problem: 4, latest_rounds: 2}"]
    begin = ("run", "--name", "it", "--json", *NANO, *follows, "--set", "task.reward=mine:odd")
    again = Workspace(tmp_path / "again", environment_of(tmp_path / "again", prefect_server))
    again.root.mkdir()
    for workspace in (empty, again):
        reward = "def odd(gold, answer):\n    return float(len(answer) % 2)\n"
        (workspace.root / "mine.py").write_text(reward)
        workspace.environment["PYTHONPATH"] += f":{workspace.root}"
    empty.call(*begin)
    directory = empty.root / "runs" / "it"
    told = json.loads((directory / "round-02" / "rollout" / "metrics.json").read_text())
    assert told["problems_in_range"] > 0
    rates = pq.read_table(directory / "round-02" / "rollout" / "rates.parquet")
    assert sum(rates["asked"].to_pylist()) == 8
    for stage in ("update", "rollout"):
        kill_inside(again.start(*begin), stage, 0.3)
    again.call(*begin)
    assert again.policy() == empty.policy()
