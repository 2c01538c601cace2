"""Several rewards through the real stages: rollouts, metrics, the update, columns, a null in a group."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from algorithms.advantages import decoupled_advantage, group_advantage
from params.base import BadInput
from params.engine import Engine
from params.method import Method
from params.schema import Params, Rollout
from params.task import Task
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import PROBLEMS, read_table, write_table
from tasks.rollout.components import components
from tasks.rollout.dynamic_sampling import varied
from tasks.rollout.rollout import rollout
from tasks.update.responses import Responses
from tasks.update.update import update
from tests.conftest import RunStage, as_artefact
from tests.tasks.rollout_rows import parameters, rollout_artefact, rows

FILE = """
def hinted(completions, hint, log_metric, **kwargs):
    log_metric("hinted", float(len(set(hint)) == 1))
    return [None if sum(map(ord, text)) % 3 == 0 else float(hint[0] in text) for text in completions]

def odd(gold, answer):
    if sum(map(ord, answer)) % 4 == 0:
        raise ValueError("no fours")
    return float(len(answer) % 2)
"""
REWARDS = ["mine:odd", {"name": "mine:hinted", "weight": 0.5}, {"name": "length", "weight": 0.25}]


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)


def settings(rewards: object = REWARDS, **method: object) -> Params:
    chosen = parameters(context=96)
    return chosen.model_copy(
        update={
            "rollout": Rollout(problems_per_round=4, samples_per_problem=4, max_response_tokens=8),
            "engine": Engine(name="transformers"),
            "task": Task.model_validate({"problems": "arithmetic", "reward": rewards}),
            "method": Method.model_validate(method),
        }
    )


@pytest.fixture
def problems(tmp_path: Path) -> Artefact:
    folder = tmp_path / "problems"
    folder.mkdir()
    made = [
        {
            "problem_id": f"p{i}",
            "question": f"{i} + 1 = ?",
            "answer": str(i + 1),
            "level": 1,
            "source": "test",
            "columns": json.dumps({"hint": "a", "deep": {"x": [i]}}),
        }
        for i in range(6)
    ]
    for name in ("train", "held_out"):
        write_table(folder / f"{name}.parquet", pa.Table.from_pylist(made, schema=PROBLEMS))
    return as_artefact(folder, "problems")


def test_components_stand_in_rollouts_and_metrics(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact
) -> None:
    made = run_stage(rollout, settings(), model=tiny_model, problems=problems)
    answers = read_table(made.file("rollouts.parquet"))
    weights = {"odd": 1.0, "hinted": 0.5, "length": 0.25}
    failed = 0
    for row in answers.to_pylist():
        parts = dict(row["rewards"])
        assert list(parts) == list(weights)
        if parts["odd"] is None:
            failed += 1
            assert (row["reward"], row["total"]) == (None, None)
            assert row["reward_error"] == "odd: judge failed: ValueError: no fours"
            continue
        total = sum(weights[name] * value for name, value in parts.items() if value is not None)
        assert row["total"] == pytest.approx(total, abs=1e-6)
        assert row["reward"] == parts["odd"]
        assert json.loads(row["notes"]) == {"hinted.hinted": 1.0}
    assert 0 < failed < answers.num_rows
    written = made.json("metrics.json")
    assert written["notes"] == {"hinted.hinted": 1.0}
    said = [dict(row)["hinted"] for row in answers["rewards"].to_pylist()]
    applying = [value for value in said if value is not None]
    assert len(applying) < len(said)
    assert written["rewards"]["hinted"] == pytest.approx(sum(applying) / len(applying))
    assert written["total_mean"] == pytest.approx(pc.mean(answers["total"]).as_py(), abs=1e-6)
    assert set(varied(answers)) <= set(range(4))


def test_one_reward_alone_leaves_the_columns_empty(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact
) -> None:
    made = run_stage(rollout, settings("mine:odd"), model=tiny_model, problems=problems)
    answers = read_table(made.file("rollouts.parquet"))
    assert {answers[name].null_count for name in ("total", "rewards", "notes")} == {answers.num_rows}
    assert "rewards" not in made.json("metrics.json")


@pytest.mark.parametrize("aggregation", ["sum_then_normalise", "normalise_then_sum"])
def test_the_update_learns_from_all_of_them(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, aggregation: str
) -> None:
    params = settings(reward_aggregation=aggregation)
    made = run_stage(rollout, params, model=tiny_model, problems=problems)
    given = Responses.read(made.file("rollouts.parquet"), params)
    table = read_table(made.file("rollouts.parquet"))
    table = table.filter(table["reward"].is_valid())
    group = torch.tensor(table["group"].to_pylist())
    if aggregation == "sum_then_normalise":
        expected = group_advantage(torch.tensor(table["total"].to_pylist()), group)
    else:
        parts = [dict(row) for row in table["rewards"].to_pylist()]
        each = [[float("nan") if v is None else v for v in row.values()] for row in parts]
        expected = decoupled_advantage(torch.tensor(each), torch.tensor([1.0, 0.5, 0.25]), group)
    assert torch.allclose(given.advantage, expected, atol=1e-6)
    assert given.reward.tolist() == table["reward"].to_pylist()
    assert run_stage(update, params, model=tiny_model, rollout=made).json("metrics.json")["steps"] == 1


def test_answers_of_one_reward_have_the_first(tmp_path: Path) -> None:
    """Such as demonstrations, and what an earlier run with one reward left in a pool."""
    params = settings(reward_aggregation="normalise_then_sum")
    made = rollout_artefact(tmp_path / "made", rows([[1.0, 0.0, 0.5], [0.0, 1.0, None]]))
    found = Responses.read(made.file("rollouts.parquet"), params).advantage
    rewards, group = torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0]), torch.tensor([0, 0, 0, 1, 1])
    assert torch.allclose(found, decoupled_advantage(rewards[:, None], torch.ones(1), group))


def test_a_missing_column_is_told_before_anything_is_sampled(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(FILE.replace("hint", "clue"))
    with pytest.raises(BadInput, match="mine:clueed takes 'clue', which is no column of the problems"):
        run_stage(rollout, settings(["mine:odd", "mine:clueed"]), model=tiny_model, problems=problems)


def test_a_note_beyond_all_numbers_is_not_averaged() -> None:
    notes = [{"size": 10**400, "huge": 1e308}, {"size": 3, "huge": 1e308}, {"size": float("nan")}]
    empty = pa.array([None] * 3, pa.float32())
    table = pa.table({"rewards": empty, "total": empty, "notes": [json.dumps(note) for note in notes]})
    assert components(table) == {"notes": {"size": 3.0}}
