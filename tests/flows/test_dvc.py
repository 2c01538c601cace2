"""DVC's way in: the generated pipeline runs, and each driver takes over what the other made."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from flows.dvc import pipeline
from flows.dvc.pipeline import PLOTS, write_pipeline
from flows.execution.single_stage import run_stage
from flows.stage_table.stages import plan
from params.base import BadInput
from params.layers import merge
from params.load import compose
from tasks.artefacts.record import Record
from tasks.report.run.data import COLUMNS
from tasks.report.run.page import write
from tests.flows.conftest import NANO, ROOT, Workspace, environment_of, outcomes
from tests.flows.own_data import SMALL


def test_the_pipeline_in_the_repository_has_not_drifted() -> None:
    assert "match" in write_pipeline(ROOT, compose("smollm2-135m", "arithmetic", "grpo"), "demo", check=True)


def test_the_last_policy_is_in_dvcs_registry() -> None:
    with Repo(str(ROOT)) as repo:
        ((_, found),) = repo.artifacts.read().items()
        outs = {str(Path(out.fs_path).relative_to(ROOT)) for out in repo.index.outs}
    policy = found["demo"]
    assert policy.type == "model"
    assert policy.path in outs
    assert "28 rounds of grpo" in policy.desc


def test_drift_is_noticed(tmp_path: Path) -> None:
    params = compose("nano", "arithmetic", "grpo")
    write_pipeline(tmp_path, params, "demo")
    write_pipeline(tmp_path, params, "demo", check=True)
    with pytest.raises(BadInput, match=r"params\.yaml: differs"):
        write_pipeline(tmp_path, params.model_copy(update={"seed": 5}), "demo", check=True)


@pytest.fixture
def clone(tmp_path: Path, finished: Workspace, prefect_server: dict[str, str]) -> Workspace:
    """The project's own files in a repository of their own, with the nano model and problems in the cache."""
    root = tmp_path / "clone"
    listed = _do(["git", "ls-files", "-co", "--exclude-standard"], ROOT).stdout.split()
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith(".dvc/"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    for path in (finished.root / "artefacts").glob("model-*"):
        shutil.copytree(path, root / "artefacts" / path.name)
    environment = {**environment_of(root, prefect_server), "PYTHONPATH": str(root), "DVC_NO_ANALYTICS": "1"}
    environment |= {
        f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    made = Workspace(root, environment)
    _do(["git", "init", "-q", "."], root)
    _do(["dvc", "init", "-q"], root, environment)
    return made


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(600)
def test_each_driver_takes_over_what_the_other_made(clone: Workspace) -> None:
    pipeline = [part for part in NANO if part not in ("--engine", "transformers")]
    pipeline += ["--set", "engine.name=transformers", "--name", "it"]

    def dvc(*arguments: str) -> str:
        return _do(["dvc", *arguments], clone.root, clone.environment).stdout

    clone.call("dvc", *pipeline)
    dvc("repro")
    assert "Data and pipelines are up to date" in dvc("status")
    assert set(outcomes(clone.run()).values()) == {"cached"}, "Prefect makes again what DVC made"
    assert "accuracy" in dvc("metrics", "show")
    _do(["git", "add", "."], clone.root, clone.environment)
    _do(["git", "commit", "-qm", "first"], clone.root, clone.environment)

    clone.call("dvc", *pipeline, "--set", "evaluate.confidence=0.9")
    dvc("repro")
    assert json.loads((clone.root / "runs" / "it" / "metrics.json").read_text())["finished"]

    clone.call("dvc", *pipeline, "--set", "update.learning_rate=1e-3")
    assert "made" in outcomes(clone.run("--set", "update.learning_rate=1e-3")).values()
    dvc("commit", "-f")
    again = dvc("repro")
    assert "Running stage" not in again, "DVC makes again what Prefect made"
    assert "update.learning_rate" in dvc("params", "diff")
    plots = json.loads(dvc("plots", "diff", "--json", "HEAD"))
    assert not plots.get("errors")
    assert {f"{title} by round" for title in PLOTS} == set(plots["data"])
    for drawn in plots["data"].values():
        assert {"HEAD", "workspace"} <= set(drawn[0]["revisions"])


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_changed_file_of_the_users_own_is_noticed_outside_the_project(
    tmp_path: Path, finished: Workspace
) -> None:
    """Every kind of file that a run reads, and the stages on it; the pipeline runs where it lies."""
    root = tmp_path / "mein Ordner \u00e4"
    root.mkdir()
    here = Workspace(root, {**environment_of(root, finished.environment), "DVC_NO_ANALYTICS": "1"})
    base = next((finished.root / "artefacts").glob("model-*"))
    shutil.copytree(base, root / "base", ignore=shutil.ignore_patterns("manifest.json"))
    (root / "mine.py").write_text("def reward(gold, answer):\n    return float(gold == answer.strip())\n")
    for name, first in (("train", 0), ("aside", 10)):
        lines = [{"question": f"{n} and {n}?", "answer": str(2 * n)} for n in range(first, first + 6)]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = ["problems.path=train.jsonl", "problems.held_out_path=aside.jsonl", "reward.name=mine:reward"]
    small = ["rounds=1", "threads=1", "evaluate.bootstrap_samples=50", "rollout.max_response_tokens=4"]
    settings = [*SMALL, *small, *(f"task.{each}" for each in own)]
    chosen = ["--model", "base", "--task", "jsonl", "--name", "it"]
    said = here.call("dvc", *chosen, *(part for each in settings for part in ("--set", each))).stdout
    assert "`dvc init`" in said

    def dvc(*arguments: str) -> str:
        return _do(["dvc", *arguments], root, here.environment).stdout

    dvc("init", "-q", "--no-scm")
    dvc("repro")
    assert "up to date" in dvc("status")
    for name, stages in {
        "train.jsonl": {"problems"},
        "aside.jsonl": {"problems"},
        "base/config.json": {"model"},
        "base/model.safetensors": {"model"},
        "mine.py": {"problems", "rollout@01", "evaluate-first", "evaluate@01"},
    }.items():
        before = (root / name).read_bytes()
        (root / name).write_bytes(before + b"\n")
        changed = json.loads(dvc("status", "--json"))
        assert {stage for stage, what in changed.items() if name in json.dumps(what)} == stages, name
        (root / name).write_bytes(before)
    assert "up to date" in dvc("status")


@pytest.mark.parametrize("order", [(0, 2), (2, 0)])
def test_a_parameter_that_changes_some_stages_leaves_a_finished_record(
    copied: Workspace, monkeypatch: pytest.MonkeyPatch, order: tuple[int, int]
) -> None:
    """DVC runs the changed stages again and no others, in any order that their inputs allow."""
    monkeypatch.setenv("OSTINATO_HOME", str(copied.root))
    directory = copied.root / "runs" / "it"
    before = Record.read(directory)
    changed = merge(before.params, {"evaluate": {"confidence": 0.9}})
    file = copied.root / "params.yaml"
    file.write_text(yaml.safe_dump(changed))
    for round in order:
        shutil.rmtree(directory / f"round-{round:02d}" / "evaluate")  # as DVC does before it runs a stage
        run_stage("evaluate", "it", round, file)
        assert Record.read(directory).finished == (round == order[-1])
    write(directory)
    told = Record.read(directory)
    assert {step.place for step in told.steps} == {step.place for step in before.steps}
    assert told.finished
    assert json.loads((directory / "metrics.json").read_text())["finished"]


def test_every_plot_has_a_column() -> None:
    assert set(PLOTS.values()) <= set(COLUMNS)


def _do(
    command: list[str], where: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["rollout.lag=2"],
        ["replay.sizing=drift", "rollout.lag=1"],
        ["sft={}"],
        ["sft={}", "rollout.lag=2"],
    ],
)
def test_the_pipeline_is_wired_as_the_plan_is(settings: list[str]) -> None:
    """Every stage of every round once, with the inputs that a run gives it."""
    params = compose("nano", "sums", "dyjr", ["rounds=6", "evaluate.every=2", *settings])
    wired = {}
    planned = plan(params)
    for stage in planned.stages:
        for title, body in pipeline._stage(Path("."), stage.name, planned, "r").items():
            items = body.get("foreach", {title: {}})
            for key, item in items.items():
                text = json.dumps(body.get("do", body)).replace("${key}", key)
                for name, value in item.items():
                    text = text.replace("${item.%s}" % name, str(value))  # noqa: UP031
                made = json.loads(text)
                deps = {d.removeprefix("runs/r/") for d in made["deps"] if d.startswith("runs/r/")}
                assert made["outs"][0] not in wired
                wired[made["outs"][0]] = deps
    assert wired == {f"runs/r/{n.place}": set(n.inputs.values()) for n in plan(params)}
