"""A fingerprint changes with what changes a result, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.execution import fingerprint as module
from flows.execution.fingerprint import closure, fingerprint, modules
from flows.stage_table.stages import STAGES, plan
from params.load import compose
from params.schema import Params
from tests.conftest import as_artefact


def nano(*settings: str) -> Params:
    return compose("nano", "arithmetic", "grpo", ["engine.name=transformers", *settings])


def of(stage: str, params: Params, round: int = 1) -> str:
    return fingerprint(STAGES[stage], round, params, {})


@pytest.mark.parametrize(
    ("setting", "touched"),
    [
        ("update.learning_rate=1e-3", {"update"}),
        ("method.objective.clip_high=0.5", {"update"}),
        ("replay.max_age=3", {"replay"}),
        ("evaluate.bootstrap_samples=10", {"evaluate"}),
        ("rollout.problems_per_round=5", {"rollout"}),
        ("rollout.temperature=0.9", {"rollout", "update", "evaluate"}),
        ("update.head_chunk=7", set()),
        ("task.reward_workers=3", set()),
        ("threads=1", set()),
        ("rounds=7", set()),
        ("seed=1", set(STAGES)),
    ],
)
def test_each_stage_depends_on_what_it_declares(setting: str, touched: set[str]) -> None:
    before, after = nano(), nano(setting)
    stages = {step.stage.name for step in plan(before)}
    assert {stage for stage in stages if of(stage, before) != of(stage, after)} == touched & stages


@pytest.mark.parametrize(
    ("setting", "touched"),
    [
        ("distil.student.budget=0.1", {"distil"}),
        ("distil.signal.mode=weak", {"signal", "distil"}),
        ("distil.hold_out=0.5", {"teach", "unlearn", "signal"}),
        ("update.learning_rate=1e-3", {"teach", "unlearn", "distil"}),
        ("update.warmup_steps=9", set()),
        ("update.epochs=9", set()),
        ("update.head_chunk=7", set()),
    ],
)
def test_each_phase_of_erpd_depends_on_its_own_section(setting: str, touched: set[str]) -> None:
    before, after = (compose("nano", "sums", "erpd", more) for more in ((), (setting,)))
    stages = {step.stage.name for step in plan(before)}
    assert stages >= {"teach", "unlearn", "signal", "distil", "evaluate_teacher"}
    assert "update" not in stages
    assert {stage for stage in stages if of(stage, before) != of(stage, after)} == touched


def test_the_model_from_a_wheel_does_not_depend_on_the_task_or_seed() -> None:
    first = compose("smollm2-135m", "arithmetic", "grpo")
    second = compose("smollm2-135m", "arithmetic", "grpo", ["seed=1", "task.train_count=99"])
    assert of("model", first) == of("model", second)


def test_rounds_and_inputs_count(tmp_path: Path) -> None:
    params = nano()
    assert of("rollout", params, 1) != of("rollout", params, 2)
    digests = []
    for content in ("a", "b"):
        folder = tmp_path / content
        folder.mkdir()
        (folder / "x").write_text(content)
        given = {"model": as_artefact(folder, "model")}
        digests.append(fingerprint(STAGES["rollout"], 1, params, given))
    assert len({*digests, of("rollout", params)}) == 3


def test_a_changed_helper_counts_and_a_changed_stranger_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    params, changed = nano(), ""
    digest = module._source_digest

    def pretend(name: str) -> str:
        return "changed" if name == changed else digest(name)

    stages = {step.stage.name for step in plan(params)} | {"pool"}
    before = {stage: of(stage, params) for stage in STAGES}
    monkeypatch.setattr(module, "_source_digest", pretend)
    for changed, touched in {
        "algorithms.grpo": {"update"},
        "algorithms.replay_buffer": {"replay", "update", "pool"},
        "tasks.engines.vllm_worker": {"rollout", "evaluate", "pool"},
        "tasks.rewards.worker": {"rollout", "evaluate", "pool"},
        "tasks.report.run.page": set(),
    }.items():
        assert {stage for stage in stages if of(stage, params) != before[stage]} == touched, changed


def test_the_users_own_files_count(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [f'{{"question": "what is {i}?", "answer": "{i}"}}' for i in range(40)]
    settings = [
        f"task.problems={{name: jsonl, path: {data}}}",
        "task.train_count=20",
        "task.held_out_count=8",
    ]
    data.write_text("\n".join(rows))
    before = of("problems", nano(*settings))
    data.write_text("\n".join([*rows[:-1], '{"question": "what is new?", "answer": "1"}']))
    assert of("problems", nano(*settings)) != before


def test_the_closure_follows_imports_and_stays_inside_the_project() -> None:
    found = closure(("tasks.update.update",))
    assert {"tasks.update.update", "algorithms.advantages", "algorithms.terms"} <= found
    assert all(name.partition(".")[0] in ("tasks", "algorithms") for name in found)
    assert "algorithms.grpo" in modules(STAGES["update"], nano())
    assert "algorithms.grpo" not in modules(STAGES["rollout"], nano())


def test_every_input_comes_before_its_reader() -> None:
    done: set[str] = set()
    for node in plan(nano("rounds=4", "evaluate.every=3")):
        assert set(node.inputs.values()) <= done, node
        done.add(node.place)
    assert {"round-00/evaluate", "round-03/evaluate", "round-04/evaluate"} <= done
    assert "round-02/evaluate" not in done
