"""A comparison through the command line and through Prefect: it shares, resumes, keeps to its budget."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Record
from tasks.report.cost import spent
from tests.flows.conftest import ROOT, Workspace, environment_of, events, kill_tree

TINY = [
    *("--set", "engine.name=transformers"),
    *("--set", "model.warm_start_steps=2"),
    *("--set", "task.train_count=64"),
    *("--set", "task.held_out_count=8"),
    *("--set", "rollout.problems_per_round=4"),
    *("--set", "rollout.samples_per_problem=4"),
    *("--set", "evaluate.every=1"),
    *("--set", "evaluate.bootstrap_samples=50"),
]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, list[dict[str, Any]]]:
    """A workspace with a comparison of two methods on two seeds, and what was said."""
    workspace = Workspace(tmp_path_factory.mktemp("compare"), {})
    workspace.environment = environment_of(workspace.root, {})
    return workspace, compare(workspace, "grpo,drpo", "rounds=2")


def compare(
    workspace: Workspace, methods: str, budget: str, name: str = "two", seeds: int = 2
) -> list[dict[str, Any]]:
    asked = ["--methods", methods, "--seeds", str(seeds), "--budget", budget, "--name", name]
    return events(workspace.call("compare", *asked, "--json", *TINY).stdout)


def counts(said: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    return {event["name"]: (event["made"], event["cached"]) for event in said if event["event"] == "run"}


def test_methods_begin_from_the_same_rollouts(compared: tuple[Workspace, list[dict[str, Any]]]) -> None:
    workspace, said = compared
    made = counts(said)
    assert set(made) == {f"two-{method}-s{seed}" for method in ("grpo", "drpo") for seed in (0, 1)}
    assert said[-1]["event"] == "comparison"
    assert said[-1]["stages"]["first_rollouts"] == 2
    assert said[-1]["stages"]["made"] == sum(m for m, _ in made.values())
    shared = ("model", "problems", "round-00/evaluate", "round-01/rollout", "round-01/replay")
    for seed in (0, 1):
        both = [workspace.root / f"runs/two-{method}-s{seed}" for method in ("grpo", "drpo")]
        one, other = ({s.place: s.digest for s in Record.read(p).steps} for p in both)
        assert all(one[place] == other[place] for place in shared)
        assert made[f"two-grpo-s{seed}"][1] + made[f"two-drpo-s{seed}"][1] >= len(shared)
    assert said[-1]["verdict"].startswith("No difference from grpo can be shown at 2 seeds")
    artefact = Artefact.open(workspace.root / "comparisons" / "two")
    wanted = {"report.html", "summary.json", "summary.md", "curves.parquet", "accuracy.svg", "cost.tex"}
    assert wanted <= set(artefact.manifest.files)


@pytest.mark.long
@pytest.mark.ci
def test_another_method_runs_alone(compared: tuple[Workspace, list[dict[str, Any]]]) -> None:
    workspace, _ = compared
    said = compare(workspace, "grpo,drpo,cispo", "rounds=2")
    made = counts(said)
    for seed in (0, 1):
        assert made[f"two-grpo-s{seed}"] == made[f"two-drpo-s{seed}"] == (0, 11)
        assert made[f"two-cispo-s{seed}"][1] >= 5
    new = sum(made[f"two-cispo-s{seed}"][0] for seed in (0, 1))
    assert 0 < new <= 12
    page = (workspace.root / "comparisons" / "two" / "report.html").read_text()
    assert f"{new} stages were made and {66 - new} came from the cache" in page


@pytest.mark.long
def test_a_budget_of_tokens_is_spent_and_not_much_more(
    compared: tuple[Workspace, list[dict[str, Any]]],
) -> None:
    workspace, _ = compared
    first = compare(workspace, "grpo,dapo", "tokens=120", "tokens")
    rounds = {}
    for name in counts(first):
        directory = workspace.root / "runs" / name
        record = Record.read(directory)
        rounds[name] = record.params["rounds"]
        assert record.finished
        assert record.command.endswith(f"--set rounds={rounds[name]}")
        assert (directory / f"round-{rounds[name]:02d}/evaluate/scores.json").is_file()
        assert not (directory / f"round-{rounds[name] + 1:02d}").exists()
        steps = [(s.round, Artefact.open(directory / s.place).manifest) for s in record.steps]
        assert spent(m for _, m in steps).tokens >= 120
        assert spent(m for round, m in steps if round < rounds[name]).tokens < 120
    assert counts(first)["tokens-grpo-s0"][1] > 0  # begins where the comparison by rounds did
    again = compare(workspace, "grpo,dapo", "tokens=120", "tokens")
    assert all(made == 0 for made, _ in counts(again).values())
    assert again[-1]["effects"] == first[-1]["effects"]
    summary = again[-1]["methods"]["dapo"]["runs"]
    assert [run["rounds"] for run in summary] == [rounds["tokens-dapo-s0"], rounds["tokens-dapo-s1"]]


def test_one_method_has_a_page_of_its_own(compared: tuple[Workspace, list[dict[str, Any]]]) -> None:
    workspace, _ = compared
    said = compare(workspace, "grpo", "rounds=2", "one")
    assert counts(said)["one-grpo-s0"][0] == 0  # all of it was there
    assert said[-1]["verdict"].startswith("grpo alone: ")
    assert said[-1]["effects"] == {metric: {} for metric in said[-1]["effects"]}
    assert (workspace.root / "comparisons" / "one" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "grpo,drpi"], "--methods drpi: no such method; did you mean 'drpo'?"),
        (["--methods", "grpo,grpo"], "grpo stands there twice"),
        (["--methods", ","], "names nothing"),
        (["--methods", "grpo,drpo", "--baseline", "dpro"], "not among the methods; did you mean 'drpo'?"),
        (["--methods", "grpo", "--budget", "token=5"], "no unit 'token'; did you mean 'tokens'?"),
        (["--methods", "grpo", "--budget", "20"], "expected rounds=20, tokens=200000 or minutes=10"),
        (["--methods", "grpo", "--budget", "minutes=-1"], "--budget.minutes"),
        (["--methods", "grpo", "--name", "No good"], "--name No good: expected lower-case"),
        (["--methods", "grpo", "--set", "seed=1"], "expected --seeds COUNT"),
        (["--methods", "grpo", "--set", "trackers=[mlflow]"], "trackers: mlflow is not installed"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, refused: Callable[[list[str], str], None]
) -> None:
    refused(["compare", *arguments], said)


def test_an_error_in_the_data_is_told_before_anything_runs(
    tmp_path_factory: pytest.TempPathFactory, refused: Callable[[list[str], str], None]
) -> None:
    path = tmp_path_factory.mktemp("data") / "bad.jsonl"
    path.write_text('{"question": "1 + 1 =", "answer": "2"}\n{"question": "2 + 2 ="}\n')
    more = ["--set", f"task.problems={{name: jsonl, path: {path}}}"]
    refused(["compare", "--methods", "grpo,dyjr", *more], f"{path}:2")


FLOW = """
import sys
from flows.environment import prepare_prefect, workspace
prepare_prefect(workspace())
from flows.compare_flow import compare
settings = sys.argv[1:]
try:
    compare(methods=["grpo"], seeds=0)
except Exception as error:
    assert "greater than or equal to 1" in str(error), error
else:
    raise SystemExit("seeds=0 was taken")
made = compare(methods=["grpo", "drpo"], seeds=2, budget="rounds=2", name="two", settings=settings)
assert made["stages"]["made"] == 0, made["stages"]
print(made["verdict"])
"""


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(600)
def test_the_flow_makes_the_same_comparison(
    compared: tuple[Workspace, list[dict[str, Any]]], prefect_server: dict[str, str]
) -> None:
    workspace, said = compared
    environment = environment_of(workspace.root, prefect_server)
    command = [sys.executable, "-c", FLOW, *TINY[1::2]]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert said[-1]["verdict"] in done.stdout
    request = urllib.request.Request(
        f"{prefect_server['PREFECT_API_URL']}/artifacts/filter", b"{}", {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        artifacts = {artifact["key"]: artifact["data"] for artifact in json.load(reply)}
    assert (workspace.root / "comparisons/two/report.html").as_uri() in artifacts["two-comparison"]
    assert said[-1]["verdict"] in artifacts["two-effects"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_and_started_again_it_goes_on(
    compared: tuple[Workspace, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """By tokens too, where what was spent is read back from the artefacts."""
    before = Workspace(tmp_path, environment_of(tmp_path, {}))
    asked = ["compare", "--methods", "grpo,drpo", "--seeds", "1", "--budget", "tokens=120", "--name", "k"]
    process = before.start(*asked, *TINY)
    while len(list((tmp_path / "artefacts").glob("rollout-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        kill_tree(process)
    resumed = compare(before, "grpo,drpo", "tokens=120", "k", seeds=1)
    assert sum(cached for _, cached in counts(resumed).values()) > 5
    whole = compare(compared[0], "grpo,drpo", "tokens=120", "k", seeds=1)
    assert resumed[-1]["effects"] == whole[-1]["effects"]
