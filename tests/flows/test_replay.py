"""Replay through the flow: what each method reads, where a pool came from, and a kill that loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.commands.inspect import show_artefact
from flows.dvc.pipeline import pipeline_file
from flows.execution.fingerprint import fingerprint
from flows.execution.validation import chosen
from flows.execution.watch import Watch
from flows.experiments.worker import make
from flows.stage_table.stages import plan, stage_table
from params.base import BadInput
from params.load import compose, presets
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table
from tasks.report.run.page import write
from tests.flows.conftest import NANO, Workspace, events, kill_tree, outcomes

SMALL = [
    "engine.name=transformers",
    "model.warm_start_steps=60",
    "task.problems.level=1",
    "task.train_count=12",
    "task.held_out_count=8",
    "rounds=3",
    "rollout.problems_per_round=6",
    "rollout.samples_per_problem=4",
    "evaluate.bootstrap_samples=50",
]
Go = Callable[..., Path]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def go(home: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    """``go(name, method, *settings)``: a whole run, made or resumed in one workspace; its directory."""
    monkeypatch.setenv("OSTINATO_HOME", str(home))

    def run(name: str, method: str, *settings: str) -> Path:
        params = chosen("nano", "sums", method, [*SMALL, *settings])
        given = params.model_dump(mode="json")
        order = {"name": name, "params": given, "budget": None, "command": name, "patience": None}
        make(home, order, Watch())
        return home / "runs" / name

    return run


def said(directory: Path, place: str) -> dict[str, Any]:
    return dict(json.loads((directory / place / "metrics.json").read_text()))


def test_every_preset_passes_the_door() -> None:
    for method in presets("methods"):
        if method != "dppo-top" and not method.startswith("dapo"):
            chosen("nano", "sums", method, ["engine.name=transformers"])


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("grpo", ["replay.pool=x"], "replay.pool: nothing draws from it"),
        ("dyjr", ["replay.admit=none"], "replay.admit: none keeps the buffer empty that method.replay dyjr"),
        ("rlep", ["replay.sizing=drift"], "replay.sizing: drift needs a method.replay that measures it"),
        ("rlep", ["replay.pool=nothing"], "replay.pool: no run or artefact 'nothing'"),
        ("exgrpo", ["replay.pool=nothing"], "replay.pool: method.replay exgrpo chooses problems"),
        ("exgrpo", ["rollout.refill_batches=1"], "rollout.refill_batches: method.replay exgrpo chooses"),
        ("grpo", ["method.terms=[{name: dyjr}]"], "method.terms.0: dyjr replays and brings its term"),
        ("dyjr", ["method.replay.name=dyrj"], "did you mean 'dyjr'"),
        ("dyjr", ["method.replay.form=js"], "method.replay.form: "),
        ("dyjr", ["method.replay.coeficient=1"], "did you mean 'coefficient'"),
        ("dyjr", ["replay.sizing=entropy"], "replay.sizing: entropy scales replay.per_round"),
        ("rlep", ["replay.admit=method"], "replay.admit: method, but method.replay rlep has no rule"),
        ("grpo", ["replay.admit=method"], "replay.admit: method, but method.replay null has no rule"),
        ("dph-rl", ["replay.admit=correct"], "replay: method.replay dph_rl replays the base model's answers"),
        ("uft", ["task.environment=guess"], "task.environment: method.replay uft begins answers"),
        ("dph-rl", ["method.replay.least_right=9"], "least_right must not exceed method.replay.samples"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    method: str, settings: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSTINATO_HOME", str(tmp_path))
    with pytest.raises(BadInput, match=expected) as refused:
        chosen("nano", "sums", method, ["engine.name=transformers", *settings])
    assert "\n" not in str(refused.value)


def test_a_stage_reads_the_buffer_only_where_its_method_does() -> None:
    def inputs(stage: str, method: str, *settings: str) -> set[str]:
        stages = plan(compose("nano", "sums", method, settings))
        return set(stages.node(stages.table[stage], 2).inputs)

    assert inputs("update", "grpo") == {"model", "rollout", "policy"}
    assert inputs("update", "dyjr") == {"model", "rollout", "policy", "replay"}
    assert inputs("update", "rlep", "replay.pool=x") == {"model", "rollout", "policy", "pool"}
    assert inputs("update", "rlep") == {"model", "rollout", "policy", "replay_before"}
    assert inputs("update", "exgrpo") == {"model", "rollout", "policy", "replay_before"}
    assert inputs("update", "rlep-dynamic") == {"model", "rollout", "policy", "replay"}
    assert inputs("update", "dph-rl") == {"model", "rollout", "policy", "base_pool"}
    assert inputs("rollout", "dyjr") == {"model", "problems", "policy"}
    assert inputs("rollout", "exgrpo") == {"model", "problems", "policy", "replay"}
    assert inputs("replay", "rlep") == {"rollout", "replay"}
    assert inputs("replay", "dyjr") == {"rollout", "replay"}
    assert inputs("replay", "dyjr", "replay.sizing=drift") == {"rollout", "replay", "update"}
    assert "pool" not in {step.stage.name for step in plan(compose("nano", "sums", "rlep"))}


def test_the_buffer_of_a_round_is_made_before_its_update_and_read_by_it() -> None:
    for method in ("dyjr", "dyjr-forward-kl", "rlep-dynamic"):
        stages = plan(compose("nano", "sums", method, ["rounds=3"]))
        order = list(stages.nodes)
        for round in (1, 2, 3):
            here = f"round-{round:02d}"
            assert stages[f"{here}/update"].inputs["replay"] == f"{here}/replay"
            assert order.index(f"{here}/replay") < order.index(f"{here}/update")


@pytest.mark.parametrize(
    ("method", "made_in"), [("dyjr", "${key}"), ("rlep", "${item.before}"), ("exgrpo", "${item.before}")]
)
def test_dvc_reads_the_same_buffer(method: str, made_in: str) -> None:
    stages = yaml.safe_load(pipeline_file(Path("."), compose("nano", "sums", method, ["rounds=4"]), "it"))[
        "stages"
    ]
    read = [path for path in stages["update"]["do"]["deps"] if path.endswith("/replay")]
    assert read == [f"runs/it/round-{made_in}/replay"]
    assert ("runs/it/round-01/replay" in stages["update-first"]["deps"]) == (method == "dyjr")


@pytest.mark.parametrize(
    ("setting", "touched"),
    [
        ("method.replay.coefficient=0.2", {"replay", "update"}),
        ("method.replay.fill=0.1", {"replay", "update"}),
        ("replay.max_age=3", {"replay"}),
        ("method.objective.clip_high=0.3", {"update"}),
    ],
)
def test_the_buffer_depends_on_the_method_where_that_has_the_say(setting: str, touched: set[str]) -> None:
    table = stage_table()
    before, after = (
        compose("nano", "sums", "dyjr", ["engine.name=transformers", *more]) for more in ([], [setting])
    )
    stages = ("rollout", "replay", "update", "evaluate")
    changed = {
        s for s in stages if fingerprint(table[s], 1, before, {}) != fingerprint(table[s], 1, after, {})
    }
    assert changed == touched


@pytest.mark.long
@pytest.mark.ci
def test_the_methods_run(go: Go) -> None:
    plain = go("plain", "grpo")
    drift = (
        "replay.admit=correct",
        "replay.sizing=drift",
        "replay.drift_bound=1e-7",
        "method.replay.share=0.5",
    )
    dyjr = go("dyjr", "dyjr", *drift)
    first = said(dyjr, "round-01/update")
    assert first["replayed_by_age"] == {"0": first["replayed"]}  # of this round: nothing else is there yet
    assert first["dyjr.js"] < 1e-6  # one optimiser step a round, and it has not moved yet
    assert Artefact.open(plain / "round-01/rollout").fingerprint == (
        Artefact.open(dyjr / "round-01/rollout").fingerprint
    )
    update = said(dyjr, "round-03/update")
    assert update["replayed"] > 0
    assert update["drift_by_age"]["1"] >= 0
    dropped = said(dyjr, "round-03/replay")["cohorts"]["1"]
    assert dropped["dropped"].get("drift", 0) > 0
    assert dropped["drift"] > 1e-7
    assert said(go("exgrpo", "exgrpo", "replay.start_above=0.05"), "round-03/update")["replayed"] > 0
    own = go("own", "rlep")
    assert said(own, "round-01/update")["replayed"] == 0
    update = said(own, "round-03/update")
    assert update["replayed"] > 0
    assert "0" not in update["replayed_by_age"]


@pytest.mark.long
@pytest.mark.ci
def test_the_published_presets_run(go: Go) -> None:
    settings = ("method.replay.share=0.5", "update.minibatches=3")
    run = go("published", "dyjr", *settings)
    for round in (1, 2, 3):
        buffer, update = (said(run, f"round-{round:02d}/{stage}") for stage in ("replay", "update"))
        assert buffer["admitted"] == min(5, sum(buffer["strata"].values()))  # 24 answers, 20 %
        assert buffer["fill"] == buffer["admitted"] / 24
        assert update["replayed"] == min(12, buffer["rows"])
        assert sum(update["replayed_by_age"].values()) == update["replayed"]
        assert update["penalty_by_age"].keys() == update["replayed_by_age"].keys()
    assert said(go("kl", "dyjr-forward-kl", *settings), "round-03/update")["dyjr.penalty"] > 0
    dynamic = said(go("dynamic", "rlep-dynamic", *settings), "round-03/update")
    assert dynamic["replayed"] > 0
    assert dynamic["trained_tokens"] > 0


@pytest.mark.long
@pytest.mark.ci
def test_the_base_models_answers_are_sampled_once_and_never_change(go: Go) -> None:
    run = go("static", "dph-rl", "method.replay.least_right=2", "rollout.refill_batches=0")
    pool = Artefact.open(run / "base_pool")
    rows = read_table(pool.file("buffer.parquet")).to_pylist()
    assert rows
    assert len({row["problem_id"] for row in rows}) == len(rows)
    model = Artefact.open(run / "model")
    assert {(row["policy"], row["reward"]) for row in rows} == {(model.digest, 1.0)}
    for round in (1, 2, 3):
        update = Artefact.open(run / f"round-{round:02d}/update")
        assert update.manifest.inputs["base_pool"].digest == pool.digest
        assert set(said(run, f"round-{round:02d}/update")["replayed_by_age"]) == {str(round)}
    assert said(run, "round-02/update")["dph_rl.js"] > 0
    assert said(run, "round-02/replay")["rows"] == 0


@pytest.mark.long
@pytest.mark.ci
def test_a_pool_is_another_runs_and_is_traced_to_its_problems(
    go: Go, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = go("plain", "grpo")
    run = go("pooled", "rlep", "replay.pool=plain", "replay.pool_samples=6")
    pool, source = Artefact.open(run / "pool"), Artefact.open(earlier / "round-03/update")
    assert pool.manifest.inputs["policy"].digest == source.digest
    assert pool.json("metrics.json")["rows"] > 0
    assert said(run, "round-01/update")["replayed"] > 0
    assert Artefact.open(run / "round-01/update").manifest.inputs["pool"].digest == pool.digest
    show_artefact("pooled/round-01/update", as_json=False)
    told = capsys.readouterr().out
    assert f"policy: update {source.fingerprint[:12]}" in told
    assert "round 3" in told
    assert write(run).stat().st_size > 10_000
    by_path = go("by-path", "rlep", f"replay.pool={earlier / 'round-03/update'}", "replay.pool_samples=6")
    assert Artefact.open(by_path / "pool").fingerprint == pool.fingerprint
    params = compose("nano", "sums", "rlep", [*SMALL, "replay.pool=plain"])
    assert "runs/plain/run.json" in pipeline_file(Path("."), params, "it")
    longer = go("plain", "grpo", "rounds=4")
    assert Artefact.open(longer / "round-04/update").digest != source.digest
    again = go("pooled", "rlep", "replay.pool=plain", "replay.pool_samples=6")
    assert Artefact.open(again / "pool").fingerprint != pool.fingerprint


@pytest.mark.long
@pytest.mark.ci
def test_a_pool_of_another_base_is_refused(go: Go) -> None:
    go("other", "grpo", "model.warm_start_steps=10", "rounds=1")
    with pytest.raises(BadInput, match=r"replay\.pool: other was trained from another base model"):
        go("refused", "rlep", "replay.pool=other")


@pytest.mark.long
def test_killed_in_replay_and_in_update_it_loses_nothing(prepared: Workspace, copied: Workspace) -> None:
    arguments = ("--method", "dyjr", "--set", "method.replay.warm_up_fill=1")
    for place in ("round-01/replay", "round-01/update", "round-02/replay", "round-02/update"):
        process = prepared.start("run", "--name", "it", "--json", *NANO, *arguments)
        assert process.stdout is not None
        for line in process.stdout:
            if any(e["event"] == "begin" and e["place"] == place for e in events(line)):
                break
        kill_tree(process)
    made = outcomes(prepared.run(*arguments))
    assert made["round-02/rollout"] == "cached"
    assert json.loads((prepared.root / "runs/it/round-02/update/metrics.json").read_text())["replayed"] > 0
    assert set(outcomes(prepared.run(*arguments)).values()) == {"cached"}
    copied.run(*arguments)  # never interrupted
    assert prepared.policy() == copied.policy()
    buffers = [sorted(w.root.glob("runs/it/round-*/replay/*.parquet")) for w in (prepared, copied)]
    assert len(buffers[0]) == 4
    assert [p.read_bytes() for p in buffers[0]] == [p.read_bytes() for p in buffers[1]]
