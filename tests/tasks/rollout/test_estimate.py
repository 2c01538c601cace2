"""A curriculum: pass rates of the base model, which problems are asked by them, and in which order."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from flows.execution.fingerprint import fingerprint
from flows.stage_table.stages import plan
from params.base import BadInput
from params.load import compose
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table, write_table
from tasks.prepare.problems import problems as make_problems
from tasks.rollout.estimate import RATES, TABLE, estimate
from tasks.rollout.rollout import rollout
from tests.conftest import RunStage, as_artefact


def parameters(*more: str) -> Params:
    small = [
        *("curriculum={samples_per_problem: 4}", "task.train_count=12", "task.held_out_count=2"),
        *("rollout.problems_per_round=2", "rollout.samples_per_problem=2", "rollout.max_response_tokens=4"),
        *("engine.name=transformers", "task.reward=similarity", *more),
    ]
    return compose("nano", "sums", "grpo", small)


@pytest.fixture
def problems(run_stage: RunStage) -> Artefact:
    return run_stage(make_problems, parameters())


def rates(problems: Artefact, folder: Path, right: list[int | None]) -> Artefact:
    """A table of so many right answers of four to each training problem; None: none could be judged."""
    folder.mkdir()
    names = read_table(problems.file("train.parquet"))["problem_id"].to_pylist()
    rows = [
        {"problem_id": name, "judged": 0 if count is None else 4, "right": count or 0}
        for name, count in zip(names, right, strict=True)
    ]
    write_table(folder / TABLE, pa.Table.from_pylist(rows, schema=RATES))
    return as_artefact(folder, "estimate")


def asked(run_stage: RunStage, params: Params, rounds: int, **inputs: Artefact) -> list[list[str]]:
    found = []
    for round in range(1, rounds + 1):
        table = read_table(run_stage(rollout, params, round=round, **inputs).file("rollouts.parquet"))
        found.append(list(dict.fromkeys(table["problem_id"].to_pylist())))
    return found


def test_a_rate_for_each_training_problem(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact
) -> None:
    made = run_stage(estimate, parameters(), round=0, model=tiny_model, problems=problems)
    table = read_table(made.file(TABLE))
    assert table["problem_id"] == read_table(problems.file("train.parquet"))["problem_id"]
    assert set(table["judged"].to_pylist()) == {4}
    assert made.json("metrics.json")["problems"] == 12
    again = run_stage(estimate, parameters(), round=0, model=tiny_model, problems=problems)
    assert read_table(again.file(TABLE)) == table


def test_only_problems_in_the_range_are_asked_and_the_easy_ones_first(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, tmp_path: Path
) -> None:
    right: list[int | None] = [0, 4, 1, 2, 3, 1, 2, 3, 0, 4, None, 4]
    inputs = {"model": tiny_model, "problems": problems, "estimate": rates(problems, tmp_path / "e", right)}
    names = read_table(problems.file("train.parquet"))["problem_id"].to_pylist()
    number = dict(zip(names, right, strict=True))
    for order in ("random", "easy_first"):
        params = parameters(f"curriculum.order={order}")
        found = asked(run_stage, params, 3, **inputs)
        assert sorted(number[name] or 0 for each in found for name in each) == [1, 1, 2, 2, 3, 3]
        if order == "easy_first":
            assert [[number[name] for name in each] for each in found] == [[3, 3], [2, 2], [1, 1]]
        assert asked(run_stage, params, 3, **inputs) == found
    hard = asked(run_stage, parameters("curriculum.below=0.3"), 1, **inputs)
    assert [number[name] for name in hard[0]] == [1, 1]
    with pytest.raises(BadInput, match=r"curriculum: 0 of 12 training problems have a pass rate above 0\.8"):
        asked(run_stage, parameters("curriculum.above=0.8"), 1, **inputs)


def test_another_range_or_order_estimates_nothing_again() -> None:
    def identities(params: Params) -> dict[str, str]:
        return {name: fingerprint(row, 0, params, {}) for name, row in plan(params).table.items()}

    usual = identities(parameters())
    other = identities(parameters("curriculum.below=0.9", "curriculum.order=easy_first"))
    assert {name for name in usual if usual[name] != other[name]} == {"rollout"}
    assert "estimate" not in plan(parameters("curriculum=null")).nodes
    assert plan(parameters())["round-01/rollout"].inputs["estimate"] == "estimate"
    for wrong in ("curriculum.above=1", "curriculum={abov: 0.1}"):
        with pytest.raises(BadInput, match="curriculum"):
            parameters(wrong)
