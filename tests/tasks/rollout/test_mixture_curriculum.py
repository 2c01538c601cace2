"""Curricula within a mixture: each task asks by its own pass rates, and the quotas stay exact."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.execution.fingerprint import fingerprint
from flows.stage_table.stages import plan
from params.base import BadInput
from params.load import compose
from params.mixture import MAIN, quotas
from params.schema import Params
from params.views import of_task
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table, write_table
from tasks.prepare.problems import problems as make_problems
from tasks.rollout.estimate import RATES, TABLE, estimate
from tasks.rollout.rollout import rollout
from tests.conftest import RunStage, as_artefact

COUNT = 12
"""Training problems of each task."""


def parity(gold: str, answer: str) -> float:
    """Right at times."""
    return float(len(answer.encode()) % 2)


def parameters(*more: str) -> Params:
    small = [
        *("tasks={countdown: {curriculum: {}}, columns: {}}", "curriculum={}", f"task.train_count={COUNT}"),
        *("task.held_out_count=2", "rollout.problems_per_round=6", "rollout.samples_per_problem=2"),
        *("rollout.max_response_tokens=3", "engine.name=transformers", "evaluate.bootstrap_samples=50"),
        *(f"task.reward={__name__}:parity", "task.on_long_prompt=drop"),
        *(
            f"tasks.{name}.{setting}"
            for name in ("countdown", "columns")
            for setting in (
                *(f"train_count={COUNT}", "held_out_count=2", "max_response_tokens=3"),
                f"reward={__name__}:parity",
            )
        ),
    ]
    return compose("nano", "sums", "grpo", [*small, *more])


@pytest.fixture
def inputs(run_stage: RunStage, tiny_model: Artefact) -> dict[str, Artefact]:
    params = parameters()
    others = {f"problems_{name}": run_stage(make_problems, of_task(params, name)) for name in params.tasks}
    return {"model": tiny_model, "problems": run_stage(make_problems, params), **others}


def names_of(inputs: dict[str, Artefact], task: str) -> list[str]:
    made = inputs["problems" if task == MAIN else f"problems_{task}"]
    names: list[str] = read_table(made.file("train.parquet"))["problem_id"].to_pylist()
    return names


Rates = dict[str, list[int]]
"""By task: how many of four answers to each training problem are right."""
numbers = itertools.count()


def rates(inputs: dict[str, Artefact], folder: Path, right: Rates) -> dict[str, Artefact]:
    found = {}
    for task, counts in right.items():
        rows = [
            {"problem_id": name, "judged": 4, "right": count}
            for name, count in zip(names_of(inputs, task), counts, strict=True)
        ]
        at = folder / f"rates-{next(numbers)}"
        at.mkdir()
        write_table(at / TABLE, pa.Table.from_pylist(rows, schema=RATES))
        name = "estimate" if task == MAIN else f"estimate_{task}"
        found[name] = as_artefact(at, "estimate")
    return found


def asked(made: Artefact) -> dict[str, list[str]]:
    """The problems of a rollout by task."""
    table = read_table(made.file("rollouts.parquet"))
    rows = dict.fromkeys(zip(table["task"].to_pylist(), table["problem_id"].to_pylist(), strict=True))
    found: dict[str, list[str]] = {}
    for task, name in rows:
        found.setdefault(task, []).append(name)
    return found


@pytest.mark.long
def test_each_task_asks_by_its_own_rates_and_the_base_models_are_estimated_apart(
    run_stage: RunStage, inputs: dict[str, Artefact], tmp_path: Path
) -> None:
    right = {MAIN: [0, 1, 2, 4] * 3, "countdown": [3, 4, 4, 0] + [4] * 6 + [2, 1]}
    own = rates(inputs, tmp_path, right)
    params = parameters("tasks.countdown.curriculum.order=easy_first")
    rate = {task: dict(zip(names_of(inputs, task), counts, strict=True)) for task, counts in right.items()}
    seen: dict[str, list[str]] = {}
    for round in range(1, 4):
        made = run_stage(rollout, params, round=round, **inputs, **own)
        for task, names in asked(made).items():
            assert len(names) == 2
            seen.setdefault(task, []).extend(names)
    assert {rate[MAIN][name] for name in seen[MAIN]} == {1, 2}
    assert len(set(seen["columns"])) == 6
    first = [rate["countdown"][name] for name in seen["countdown"][:2]]
    assert first == [3, 2]
    made = run_stage(estimate, of_task(params, "countdown"), round=0, **_alone(inputs, "countdown"))
    assert read_table(made.file(TABLE))["problem_id"].to_pylist() == names_of(inputs, "countdown")
    hard = parameters("tasks.countdown.curriculum.above=0.8")
    with pytest.raises(BadInput, match=r"^tasks\.countdown\.curriculum: 0 of 12 training problems"):
        run_stage(rollout, hard, **inputs, **own)


def _alone(inputs: dict[str, Artefact], task: str) -> dict[str, Artefact]:
    return {"model": inputs["model"], "problems": inputs[f"problems_{task}"]}


@pytest.mark.long
@pytest.mark.ci
@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 4), min_size=3, max_size=3),
    st.lists(st.lists(st.integers(0, 4), min_size=COUNT, max_size=COUNT), min_size=2, max_size=2),
)
def test_quotas_are_exact_whatever_the_rates(
    run_stage: RunStage,
    inputs: dict[str, Artefact],
    tmp_path: Path,
    weights: list[int],
    right: list[list[int]],
) -> None:
    params = parameters(
        f"task_weight={weights[0]}",
        f"tasks.countdown.weight={weights[1]}",
        f"tasks.columns.weight={weights[2]}",
        *("curriculum.latest_rounds=2", "tasks.columns.curriculum={latest_rounds: 1}"),
        "tasks.countdown.curriculum=null",
    )
    for each in right:  # the first round needs as many in the range as it asks
        each[:8] = [1, 2, 3, 1, 2, 3, 1, 2]
    own = rates(inputs, tmp_path, {MAIN: right[0], "columns": right[1]})
    before: dict[str, Artefact] = {}
    counts: dict[str, Counter[str]] = {MAIN: Counter(), "columns": Counter()}
    for round in range(1, 4):
        made = run_stage(rollout, params, round=round, **inputs, **own, **before)
        names = asked(made)
        wanted = quotas(params.weights, 6, round)
        assert [len(names.get(task, [])) for task in (MAIN, "countdown", "columns")] == wanted
        assert all(len(set(each)) == len(each) for each in names.values())
        again = run_stage(rollout, params, round=round, **inputs, **own, **before)
        assert asked(again) == names
        for task, file in ((MAIN, TABLE), ("columns", "rates-columns.parquet")):
            counts[task].update(names.get(task, []))
            latest = read_table(made.file(file)).to_pylist()
            assert {row["problem_id"]: row["asked"] for row in latest} == counts[task]
            told = made.json("metrics.json")[task]
            assert told["problems_in_range"] + told["asked_out_of_range"] >= told["problems"]
        assert "rates-countdown.parquet" not in made.manifest.files
        before = {"rollout": made}


def test_a_tasks_curriculum_moves_its_estimate_and_the_rollouts_alone() -> None:
    def identities(params: Params) -> dict[str, str]:
        return {name: fingerprint(row, 1, params, {}) for name, row in plan(params).table.items()}

    none = identities(parameters("tasks.countdown.curriculum=null"))
    usual = identities(parameters())
    assert {*usual} - {*none} == {"estimate-countdown"}
    assert {name for name in none if none[name] != usual[name]} == {"rollout"}
    ranged = identities(parameters("tasks.countdown.curriculum.below=0.9"))
    assert {name for name in usual if usual[name] != ranged[name]} == {"rollout"}
    longer = identities(parameters("tasks.countdown.curriculum.samples_per_problem=4"))
    assert {name for name in usual if usual[name] != longer[name]} == {"rollout", "estimate-countdown"}
    wired = plan(parameters())["round-02/rollout"].inputs
    assert (wired["estimate"], wired["estimate_countdown"]) == ("estimate", "estimate-countdown")
    assert "rollout" not in wired
    follows = plan(parameters("tasks.columns.curriculum={latest_rounds: 2}"))
    assert follows["round-02/rollout"].inputs["rollout"] == "round-01/rollout"
