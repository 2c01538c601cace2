"""ERPD through the command line: its phases are stages, cached and resumed each by itself."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import yaml

from flows.dvc.pipeline import pipeline_file
from flows.stage_table.stages import plan
from params.load import compose
from tests.flows.conftest import NANO, Workspace, kill_inside, outcomes

SHORT = (
    *("--method", "erpd-ensemble"),
    *("--set", "distil.unlearn.steps=4"),
    *("--set", "distil.unlearn.snapshot_every=2"),
    *("--set", "distil.unlearned_step=4"),
    *("--set", "distil.teachers.recovered.steps=4"),
    *("--set", "distil.teachers.conservative={steps: 4, snapshot_every: 2}"),
    *("--set", "distil.signals.main.step=best"),
    *("--set", "distil.validation={problems: 4, samples: 2}"),
    *("--set", "distil.student.steps=3"),
    *("--set", "distil.student.sequence=[{signal: contrast}, {signal: main}]"),
    *("--set", "update.learning_rate=3e-3"),
)
PHASES = ("unlearn", "teach", "validate", "signal", "distil")


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
    assert nodes["round-02/evaluate_teacher"].inputs["teach"] == "round-02/teach"
    assert "teach" not in nodes["round-02/distil"].inputs
    assert "unlearn" not in nodes["round-02/teach"].inputs
    order = [node.place for node in plan(params)]
    for node in nodes.values():
        assert all(order.index(place) < order.index(node.place) for place in node.inputs.values())


def test_the_phases_come_one_after_the_other() -> None:
    nodes = {n.place: n for n in plan(compose("nano", "sums", "erpd-ensemble", ["rounds=2"]))}
    for before, after in (
        ("unlearn", "teach"),
        ("teach", "signal"),
        ("unlearn", "signal"),
        ("signal", "distil"),
    ):
        assert nodes[f"round-02/{after}"].inputs[before] == f"round-02/{before}"


def test_an_older_student_is_the_base_of_an_earlier_round() -> None:
    asked = ["rounds=5", "distil.signals.main.reference=older", "distil.signals.main.rounds_back=2"]
    nodes = {node.place: node for node in plan(compose("nano", "sums", "erpd", asked))}
    assert nodes["round-05/signal"].inputs["older_2"] == "round-02/distil"
    assert "older_2" not in nodes["round-03/signal"].inputs  # two rounds before it the base was the model
    assert "older_1" not in nodes["round-05/signal"].inputs
    assert "older_2" not in nodes["round-05/distil"].inputs
    iterated = {node.place: node for node in plan(compose("nano", "sums", "erpd-iterate"))}
    assert iterated["round-03/signal"].inputs["older_1"] == "round-01/distil"
    assert {"unlearn", "validate"} <= set(iterated["round-03/signal"].inputs)


def test_what_is_not_asked_for_is_not_planned() -> None:
    plain = ["distil.evaluate_teacher=null", "distil.signals.main.step=last"]
    stages = {node.stage.name for node in plan(compose("nano", "sums", "erpd", plain))}
    assert not stages & {"unlearn", "validate", "evaluate_teacher", "update"}
    exact = ["distil.student.target=exact", *plain]
    nodes = {node.place: node for node in plan(compose("nano", "sums", "erpd-budget", exact))}
    assert nodes["round-01/distil"].inputs["teach"] == "round-01/teach"  # the exact target asks the teacher
    grpo = {node.stage.name for node in plan(compose("nano", "sums", "grpo"))}
    assert not grpo & {*PHASES, "evaluate_teacher"}


def test_dvc_sees_each_phase() -> None:
    pipeline = yaml.safe_load(
        pipeline_file(Path("."), compose("nano", "sums", "erpd-ensemble", ["rounds=3"]), "demo")
    )
    stages = pipeline["stages"]
    for before, after in (("unlearn", "teach"), ("teach", "signal"), ("signal", "distil")):
        assert f"runs/demo/round-${{key}}/{before}" in stages[after]["do"]["deps"]
    distil = stages["distil"]["do"]
    assert "runs/demo/round-${item.before}/distil" in distil["deps"]
    assert "distil.student" in distil["params"]
    assert not any(name.startswith("update") for name in stages)


def test_dvc_wires_an_older_student_in_each_round() -> None:
    params = compose("nano", "sums", "erpd-iterate", ["rounds=5"])
    stages = yaml.safe_load(pipeline_file(Path("."), params, "demo"))["stages"]
    assert [name for name in stages if name.startswith("signal")] == ["signal-first", "signal-02", "signal"]
    assert stages["signal"]["foreach"]["04"] == {"round": 4, "before": "03", "before_2": "02"}
    assert set(stages["signal"]["foreach"]) == {"03", "04", "05"}
    assert "runs/demo/round-${item.before_2}/distil" in stages["signal"]["do"]["deps"]
    assert not any("before_2" in dep for dep in stages["signal-02"]["deps"])


def made_by(workspace: Workspace, *settings: str) -> set[str]:
    """The places that such a run makes anew."""
    said = outcomes(workspace.run(*SHORT, *(part for each in settings for part in ("--set", each))))
    return {place for place, outcome in said.items() if outcome == "made"}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_option_runs_what_follows_it_and_a_kill_changes_nothing(prepared: Workspace) -> None:
    first = prepared.run(*SHORT)
    seconds = {e["stage"]: e["seconds"] for e in first if e["event"] == "stage"}
    before = policy(prepared)
    once = ["rounds=1", "distil.evaluate_teacher=null"]
    of_student = made_by(prepared, *once, "distil.student.kl_coefficient=0.5")
    assert of_student == {"round-01/distil", "round-01/evaluate"}
    contrasts = [*once, "distil.teachers.recovered.start=base"]
    made_by(prepared, *contrasts)
    of_signal = made_by(prepared, *contrasts, "distil.unlearned_step=2")
    assert of_signal == {"round-01/signal", "round-01/distil", "round-01/evaluate"}
    _killed_in_each_stage(prepared, seconds)
    assert policy(prepared) == before
    status = json.loads(prepared.call("status", "it", "--json").stdout)
    assert {row["state"] for row in status["stages"]} == {"done"}
    assert "signal" in prepared.call("show", "it/round-02/distil").stdout
    prepared.call("export", "it", "--merged", str(prepared.root / "merged"))
    assert (prepared.root / "merged" / "model.safetensors").is_file()
    report = (prepared.root / "runs" / "it" / "report.html").read_text()
    assert all(stage in report for stage in PHASES)


def _killed_in_each_stage(workspace: Workspace, seconds: dict[str, float]) -> None:
    """The same run from the rollouts on, killed once in each phase, and then to its end."""
    for stage in PHASES:
        _forget(workspace, stage)
    chance = random.Random(5)
    for stage in PHASES:
        kill_inside(
            workspace.start("run", "--name", "it", "--json", *NANO, *SHORT),
            stage,
            chance.random() * seconds[stage],
        )
    workspace.run(*SHORT)


def _forget(workspace: Workspace, stage: str) -> None:
    """Remove every artefact of a stage, from the cache and from the run."""
    for path in [
        *(workspace.root / "artefacts").glob(f"{stage}-*"),
        *(workspace.root / "runs" / "it").glob(f"round-*/{stage}"),
    ]:
        shutil.rmtree(path)
