"""ERPD through the command line: its phases are stages, cached and resumed each by itself."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import yaml

from flows.dvc.pipeline import pipeline_file
from flows.stage_table.stages import plan
from params.load import compose
from tests.flows.conftest import NANO, Workspace, kill_inside, outcomes

SHORT = (
    *("--method", "erpd"),
    *("--set", "distil.teachers.main.epochs=2"),
    *("--set", "distil.student.epochs=2"),
    *("--set", "update.learning_rate=3e-3"),
)
PHASES = ("teach", "unlearn", "signal", "distil")


def policy(workspace: Workspace) -> dict[str, bytes]:
    folder = workspace.root / "runs" / "it" / "round-02" / "distil"
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "manifest.json")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_whoever_reads_the_policy_reads_the_students() -> None:
    params = compose("nano", "sums", "erpd-weak", ["rounds=2", "evaluate.every=1", "rollout.lag=0"])
    nodes = {node.place: node for node in plan(params)}
    assert "round-01/update" not in nodes
    for place in ("rollout", "teach", "unlearn", "signal", "distil"):
        assert nodes[f"round-02/{place}"].inputs["policy"] == "round-01/distil"
        assert "policy" not in nodes[f"round-01/{place}"].inputs
    assert nodes["round-02/evaluate"].inputs["policy"] == "round-02/distil"
    assert nodes["round-02/evaluate_teacher"].inputs["policy"] == "round-02/teach"
    assert "teach" not in nodes["round-02/distil"].inputs
    order = [node.place for node in plan(params)]
    for node in nodes.values():
        assert all(order.index(place) < order.index(node.place) for place in node.inputs.values())


def test_what_a_mode_does_not_need_is_not_planned() -> None:
    strong = compose("nano", "sums", "erpd-exact", ["distil.evaluate_teacher=false"])
    stages = {node.stage.name for node in plan(strong)}
    assert not stages & {"unlearn", "evaluate_teacher", "update"}
    nodes = {node.place: node for node in plan(strong)}
    assert nodes["round-01/distil"].inputs["teach"] == "round-01/teach"  # the exact target asks the teacher
    plain = {node.stage.name for node in plan(compose("nano", "sums", "grpo"))}
    assert not plain & {*PHASES, "evaluate_teacher"}


def test_dvc_sees_each_phase() -> None:
    pipeline = yaml.safe_load(pipeline_file(compose("nano", "sums", "erpd", ["rounds=3"]), "demo"))
    for name in PHASES:
        assert {f"{name}-first", name} & set(pipeline["stages"])
    distil = pipeline["stages"]["distil"]["do"]
    assert "runs/demo/round-${key}/signal" in distil["deps"]
    assert "runs/demo/round-${item.before}/distil" in distil["deps"]
    assert "distil.student" in distil["params"]
    assert not any(name.startswith("update") for name in pipeline["stages"])


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(600)
def test_another_budget_runs_only_the_second_phase_and_a_kill_changes_nothing(prepared: Workspace) -> None:
    first = prepared.run(*SHORT)
    seconds = {e["stage"]: e["seconds"] for e in first if e["event"] == "stage"}
    before = policy(prepared)
    again = outcomes(prepared.run(*SHORT, "--set", "distil.student.budget=0.001"))
    made = {place for place, outcome in again.items() if outcome == "made"}
    assert "round-01/distil" in made
    assert not made & {f"round-01/{stage}" for stage in ("rollout", "teach", "unlearn", "signal")}
    assert {place.partition("/")[0] for place in made} == {"round-01", "round-02"}
    assert policy(prepared) != before
    for stage in PHASES:
        _forget(prepared, stage)
    chance = random.Random(5)
    for stage in PHASES:
        kill_inside(
            prepared.start("run", "--name", "it", "--json", *NANO, *SHORT),
            stage,
            chance.random() * seconds[stage],
        )
    prepared.run(*SHORT)
    assert policy(prepared) == before
    status = json.loads(prepared.call("status", "it", "--json").stdout)
    assert {row["state"] for row in status["stages"]} == {"done"}
    assert "signal" in prepared.call("show", "it/round-02/distil").stdout
    prepared.call("export", "it", "--merged", str(prepared.root / "merged"))
    assert (prepared.root / "merged" / "model.safetensors").is_file()
    report = (prepared.root / "runs" / "it" / "report.html").read_text()
    assert all(stage in report for stage in PHASES)


def _forget(workspace: Workspace, stage: str) -> None:
    """Remove every artefact of a stage, from the cache and from the run."""
    for path in [
        *(workspace.root / "artefacts").glob(f"{stage}-*"),
        *(workspace.root / "runs" / "it").glob(f"round-*/{stage}"),
    ]:
        shutil.rmtree(path)
