"""A mixture of tasks: exact quotas, each task asked and judged in its own way, and nothing else moved."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.execution.fingerprint import fingerprint
from flows.execution.validation import settled
from flows.stage_table.stages import plan
from params.base import BadInput
from params.load import compose
from params.mixture import largest_quota, quotas
from params.schema import Params
from params.views import of_task
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table
from tasks.evaluate.evaluate import evaluate
from tasks.prepare import nano
from tasks.prepare.model import model as make_model
from tasks.prepare.problems import problems as make_problems
from tasks.rollout.rollout import rollout
from tests.conftest import RunStage

ROUNDS = 50
WEIGHTS = st.lists(st.sampled_from([0.3, 0.5, 1.0, 2.0, 3.0, 7.0]), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(WEIGHTS, st.integers(1, 24))
def test_quotas_follow_the_weights_over_fifty_rounds(weights: list[float], size: int) -> None:
    rounds = [quotas(weights, size, number) for number in range(1, ROUNDS + 1)]
    assert all(sum(each) == size for each in rounds)
    shares = [size * weight / sum(weights) for weight in weights]
    for place, share in enumerate(shares):
        own = [each[place] for each in rounds]
        assert max(own) <= largest_quota(weights, size, place)
        for after in (1, 7, ROUNDS):
            assert abs(sum(own[:after]) - after * share) < 1 + 1e-6
        if math.isclose(share, round(share)):
            assert set(own) == {round(share)}


def parameters(*more: str, tasks: str = "{countdown: {weight: 2}, columns: {}}") -> Params:
    small = [
        *(f"tasks={tasks}", "rollout.problems_per_round=8", "rollout.samples_per_problem=2"),
        *("rollout.max_response_tokens=14", "tasks.countdown.train_count=24", "tasks.columns.train_count=12"),
        *("tasks.countdown.held_out_count=4", "tasks.columns.max_response_tokens=6", "task.train_count=20"),
        *("task.held_out_count=4", "evaluate.bootstrap_samples=50", "engine.name=transformers"),
    ]
    known = [each for each in small if not each.startswith("tasks.") or each.split(".")[1] in tasks]
    return compose("nano", "sums", "grpo", [*known, *more])


@pytest.fixture
def inputs(run_stage: RunStage, tiny_model: Artefact) -> dict[str, Artefact]:
    params = parameters()
    others = {f"problems_{name}": run_stage(make_problems, of_task(params, name)) for name in params.tasks}
    return {"model": tiny_model, "problems": run_stage(make_problems, params), **others}


def test_each_task_has_its_quota_its_prompt_its_limit_and_its_judge(
    run_stage: RunStage, inputs: dict[str, Artefact]
) -> None:
    params = parameters()
    met: dict[str, list[str]] = {}
    for round in range(1, 5):
        made = run_stage(rollout, params, round=round, **inputs)
        answers = read_table(made.file("rollouts.parquet"))
        groups = answers.group_by("group").aggregate([("task", "min"), ("problem_id", "min")]).to_pylist()
        assert Counter(row["task_min"] for row in groups) == {"main": 2, "countdown": 4, "columns": 2}
        for row in groups:
            met.setdefault(row["task_min"], []).append(row["problem_id_min"])
        limits = {"main": 14, "countdown": 14, "columns": 6}
        for row in answers.to_pylist():
            assert len(row["response_ids"]) <= limits[row["task"]]
            asked = nano.tokenizer().decode(row["prompt_ids"])
            assert ("=" in asked) == (row["task"] == "main")
        told = made.json("metrics.json")
        assert {name: told[name]["problems"] for name in limits} == {"main": 2, "countdown": 4, "columns": 2}
        mean = sum(told[name]["reward_mean"] * told[name]["responses"] for name in limits) / len(answers)
        assert told["reward_mean"] == pytest.approx(mean)
    assert all(len(ids) == len(set(ids)) for ids in met.values())
    judged = run_stage(rollout, params, round=1, **inputs)
    again = run_stage(rollout, params, round=1, **inputs)
    assert read_table(judged.file("rollouts.parquet")) == read_table(again.file("rollouts.parquet"))


def test_a_tasks_own_scores_are_those_of_a_run_with_it_alone(
    run_stage: RunStage, tiny_model: Artefact, inputs: dict[str, Artefact]
) -> None:
    view = of_task(parameters(), "countdown")
    own = {"model": tiny_model, "problems": inputs["problems_countdown"]}
    made = run_stage(evaluate, view, round=0, **own)
    found = made.json("scores.json")
    assert (found["problems"], found["entropy"]) == (4, None)
    sources = read_table(inputs["problems_countdown"].file("held_out.parquet"))["source"]
    assert pc.all(pc.equal(sources, "countdown")).as_py()


def test_a_task_more_makes_nothing_again_but_the_rollouts() -> None:
    def identities(params: Params) -> dict[str, str]:
        table = plan(params).table
        return {name: fingerprint(row, 1, params, {}) for name, row in table.items()}

    one, two = parameters(tasks="[countdown]"), parameters()
    before, after = identities(one), identities(two)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"rollout", "model"}  # nano is warm-started on all of them
    weighed = identities(parameters("tasks.columns.weight=2"))
    assert {name for name in after if after[name] != weighed[name]} == {"rollout"}
    assert plan(two)["round-01/rollout"].inputs["problems_columns"] == "problems-columns"


BAD: dict[str, tuple[list[str], str]] = {
    "name": (["tasks=[countdwn]"], "tasks.countdwn: no such preset; did you mean 'countdown'?"),
    "count": (["tasks={countdown: {train_count: 2}}"], "tasks.countdown.train_count: 2; expected at least"),
    "weight": (["tasks={countdown: {weight: 0}}"], "tasks.countdown.weight"),
    "refill": (["tasks=[countdown]", "rollout.refill_batches=1"], "rollout.refill_batches: expected 0"),
    "twice": (["tasks=[gsm8k]", "evaluate.sets=[gsm8k]"], "tasks.gsm8k: the name of something else too"),
    "main": (["tasks={main: {problems: {name: countdown}}}"], "tasks.main: the name of something else"),
    "template": (["tasks={countdown: {prompt: {template: x}}}"], "must hold {question}"),
    "limit": (["tasks=[columns]"], "tasks.columns.max_response_tokens: 56; expected at most"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_mixture_is_one_line(name: str) -> None:
    settings, says = BAD[name]
    with pytest.raises(BadInput) as caught:
        settled(compose("nano", "sums", "grpo", settings))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_a_tasks_problems_is_said_of_that_task(run_stage: RunStage) -> None:
    params = parameters("tasks.countdown.train_count=100000", "model.warm_start_steps=2")
    with pytest.raises(BadInput, match=r"^tasks\.countdown\.problems: these numbers and targets have only"):
        run_stage(make_model, params)


def test_a_run_of_one_task_has_no_names(run_stage: RunStage, inputs: dict[str, Artefact]) -> None:
    alone: dict[str, Any] = {name: inputs[name] for name in ("model", "problems")}
    made = run_stage(rollout, parameters(tasks="{}").model_copy(update={"tasks": {}}), **alone)
    assert read_table(made.file("rollouts.parquet"))["task"].null_count == 16
