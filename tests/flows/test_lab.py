"""Studies through the command line: they share, resume, survive failures, and end in one comparison."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from rich.console import Console

from flows.experiments import worker_pool
from flows.experiments.display import Terminal
from flows.experiments.worker import _kind
from flows.experiments.worker_pool import Run, WorkerPool
from params.base import BadInput
from params.comparison import read_study, trials
from params.load import PRESETS, read_yaml
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Record
from tasks.artefacts.tables import read_table
from tasks.core.errors import NotFinite
from tests.flows.conftest import Workspace, environment_of, events, kill_tree

ARMS = {
    "slow": {},
    "fast": {"set": ["update.learning_rate=2e-2"]},
    "broken": {"set": ["rollout.max_response_tokens=255"]},  # which leaves no room for a prompt
}


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, list[dict[str, Any]]]:
    """A workspace with a study of which one arm fails, and what was said. Nothing in it may be changed."""
    workspace = Workspace(tmp_path_factory.mktemp("lab"), {})
    workspace.environment = environment_of(workspace.root, {})
    study = {**read_yaml(PRESETS / "labs" / "smoke.yaml"), "arms": ARMS}
    study["base"]["set"].append("model.warm_start_steps=2")
    (workspace.root / "tiny.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    said = events(workspace.call("lab", "tiny.yaml", "--json", code=1).stdout)
    return workspace, said


def ended(said: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {event["name"]: event for event in said if event["event"] == "run"}


def test_arms_share_what_does_not_tell_them_apart(studied: tuple[Workspace, list[dict[str, Any]]]) -> None:
    workspace, said = studied
    runs = ended(said)
    assert [runs[f"tiny-{arm}-s{seed}"]["outcome"] for arm in ARMS for seed in (0, 1)] == [
        *["finished"] * 4, *["failed"] * 2,
    ]  # fmt: skip
    made = sum(run["made"] for run in runs.values())
    artefacts = [path for path in (workspace.root / "artefacts").iterdir() if path.is_dir()]
    assert made == len(artefacts)  # nothing was made twice
    assert sum(path.name.startswith("model-") for path in artefacts) == 2  # one a seed
    for seed in (0, 1):
        records = [Record.read(workspace.root / f"runs/tiny-{a}-s{seed}") for a in ARMS]
        shared = [{step.place: step.digest for step in record.steps} for record in records]
        for place in ("model", "problems", "round-00/evaluate", "round-01/rollout", "round-01/replay"):
            assert shared[0][place] == shared[1][place]


def test_a_failed_run_is_one_line_and_the_others_are_compared(
    studied: tuple[Workspace, list[dict[str, Any]]],
) -> None:
    workspace, said = studied
    failed = ended(said)["tiny-broken-s0"]
    assert "its prompt has" in failed["why"]
    assert "\n" not in failed["why"]
    made = said[-1]
    assert made["event"] == "comparison"
    assert set(made["methods"]) == {"slow", "fast"}
    assert made["methods"]["fast"]["set"] == ["update.learning_rate=2e-2"]
    assert made["effects"]["evaluate.entropy"]["fast"]["pairs"] == 2
    artefact = Artefact.open(workspace.root / "comparisons" / "tiny")
    wanted = {"report.html", "curves.parquet", "summary.json", "summary.md", "entropy.svg", "best.md"}
    assert wanted <= set(artefact.manifest.files)
    page = artefact.file("summary.md").read_text()
    assert "| fast | grpo | update.learning_rate=2e-2 |" in page
    assert "![Entropy](entropy.svg)" in page
    assert f"- {failed['name']} failed: {failed['why']}" in page
    assert "tiny-slow-s1/round-02/evaluate" in artefact.manifest.inputs
    table = read_table(artefact.file("curves.parquet"))
    assert set(table["arm"].to_pylist()) == {"slow", "fast"}
    assert {"update.trained_tokens", "rollout.reward_mean", "evaluate.pass_at.4"} <= set(
        table["metric"].to_pylist()
    )


@pytest.mark.long
def test_again_it_makes_nothing(studied: tuple[Workspace, list[dict[str, Any]]]) -> None:
    workspace, _ = studied
    out = workspace.call("lab", "tiny.yaml", "--arms", "fast,slow").stdout
    for arm in ("slow", "fast"):
        for seed in (0, 1):
            assert f"tiny-{arm}-s{seed}: finished, 0 stages made, 11 cached" in out
    assert f"Report: {workspace.root / 'comparisons/tiny/report.html'}" in out
    status = workspace.call("status", "tiny-fast-s1").stdout
    assert "11 of 11 stages done" in status
    assert "ostinato run --model nano --task sums --method grpo --name tiny-fast-s1" in status


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["smok"], "lab smok: no such study; did you mean 'smoke'?"),
        (["smoke", "--arms", "fsat"], "--arms fsat: no such arm; did you mean 'fast'?"),
        (["smoke", "--set", "seed=1"], "expected --seeds COUNT"),
        (["smoke", "--set", "updat.epochs=1"], "did you mean 'update'?"),
        (["smoke", "--set", "method.objective.clip_hihg=1"], "did you mean 'clip_high'?"),
        (["smoke", "--seeds", "0"], "--seeds"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, refused: Callable[[list[str], str], None]
) -> None:
    refused(["lab", *arguments], said)


FAKE = """
import json, sys
for line in sys.stdin:
    name = json.loads(line)["name"]
    made = {"event": "stage", "stage": "rollout", "place": "round-01/rollout", "outcome": "made"}
    print(json.dumps({**made, "seconds": 2.0}), flush=True)
    if name == "smoke-slow-s1":
        sys.exit("out of luck")
    print(json.dumps({"event": "end", "outcome": "finished", "why": ""}), flush=True)
"""


def test_a_process_that_dies_fails_its_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "COMMAND", (sys.executable, "-c", FAKE))
    name, study = read_study("smoke")
    runs = [Run(trial) for trial in trials(name, study)]
    screen = io.StringIO()
    shown = Terminal(name, runs, 1, Console(file=screen, width=110))
    with WorkerPool(tmp_path, name, runs, 1) as pool:
        for run, event in pool.events():
            shown.tell(run, event)
    assert [run.outcome for run in runs] == ["finished", "failed", "finished", "finished"]
    assert "its process died (exit code 1): out of luck (see " in runs[1].why
    (kept,) = (tmp_path / ".ostinato" / "comparisons" / name).glob("died-*.log")
    assert kept.read_text() == "out of luck\n"
    assert str(kept) in runs[1].why
    assert "smoke-slow-s1: failed (its process died" in screen.getvalue()
    assert "smoke: 4 of 4 runs, 4 of 8 rounds" in shown._picture().plain


def test_a_process_that_cannot_be_started_fails_its_run_and_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "COMMAND", (str(tmp_path / "nothing"),))
    name, study = read_study("smoke")
    runs = [Run(trial) for trial in trials(name, study)]
    with WorkerPool(tmp_path, name, runs, 2) as pool:
        said = [event["event"] for _, event in pool.events()]
    assert sorted(said) == sorted(["begin", "end"] * len(runs))
    assert {run.outcome for run in runs} == {"failed"}
    assert all("the system refused its process: [Errno 2] No such file" in run.why for run in runs)


BUSY = """
import json, sys
for line in sys.stdin:
    order = json.loads(line)
    stage = {"event": "stage", "stage": "rollout", "place": "round-01/rollout", "seconds": 2.0}
    print(json.dumps({**stage, "outcome": "cached" if order["patience"] else "made"}), flush=True)
    away = order["name"] == "smoke-slow-s0" and not order["patience"]
    end = {"outcome": "elsewhere", "why": "another"} if away else {"outcome": "finished", "why": ""}
    print(json.dumps({"event": "end", **end}), flush=True)
"""


def test_a_run_that_another_machine_is_at_comes_again_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it made the first time it has made, though it finds it in the cache the second time."""
    monkeypatch.setattr(worker_pool, "COMMAND", (sys.executable, "-c", BUSY))
    name, study = read_study("smoke")
    runs = [Run(trial) for trial in trials(name, study)]
    screen = io.StringIO()
    shown = Terminal(name, runs, 1, Console(file=screen, width=110))
    begun = []
    with WorkerPool(tmp_path, name, runs, 1) as pool:
        for run, event in pool.events():
            shown.tell(run, event)
            begun += [run.trial.name] if event["event"] == "begin" else []
    assert begun == [*(run.trial.name for run in runs), "smoke-slow-s0"]
    assert {(run.outcome, run.made, run.cached) for run in runs} == {("finished", 1, 0)}
    assert screen.getvalue().count("smoke-slow-s0: finished") == 1
    assert "elsewhere" not in screen.getvalue()
    assert "smoke: 4 of 4 runs, 4 of 8 rounds" in shown._picture().plain


def test_a_run_whose_numbers_end_has_diverged() -> None:
    assert _kind(NotFinite("3 steps in a row")) == "diverged"
    assert _kind(BadInput("x")) == "failed"


@pytest.mark.long
def test_killed_and_started_again_it_ends_with_the_same_curves(
    studied: tuple[Workspace, list[dict[str, Any]]], tmp_path: Path
) -> None:
    before = Workspace(tmp_path, environment_of(tmp_path, {}))
    (tmp_path / "tiny.yaml").write_bytes((studied[0].root / "tiny.yaml").read_bytes())
    process = before.start("lab", "tiny.yaml", "--json", "--arms", "slow,fast")
    while not list((tmp_path / "artefacts").glob("update-*")):
        assert process.poll() is None
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive  # no worker outlives the one that started it
    with contextlib.suppress(ProcessLookupError):
        kill_tree(process)
    before.call("lab", "tiny.yaml", "--json", "--arms", "slow,fast")
    assert plain_curves(before) == plain_curves(studied[0])


def plain_curves(workspace: Workspace) -> list[dict[str, Any]]:
    """The curves without what varies from one making to the next."""
    rows = read_table(workspace.root / "comparisons" / "tiny" / "curves.parquet").to_pylist()
    return [row for row in rows if ".measured." not in row["metric"]]
