"""Evaluation: figures of known tables, and the stage itself on a tiny model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from params.load import compose
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import ROLLOUTS, read_table, write_table
from tasks.core.stage import Job
from tasks.evaluate import evaluate as evaluation
from tasks.evaluate.evaluate import evaluate
from tasks.evaluate.scores import ANSWERS, scores, tally
from tasks.prepare import nano
from tasks.prepare.problems import problems as make_problems
from tasks.rollout import parts
from tasks.rollout.rollout import rollout
from tasks.stats.intervals import mean_interval
from tasks.update.update import update
from tests.conftest import RunStage

FIGURES = {"entropy": 1.0, "rank_probabilities": [0.5, 0.2, 0.1], "kl_to_base": 0.0, "tokens": 9}


def parameters(**settings: Any) -> Params:
    small = {
        "task.train_count": 12,
        "task.held_out_count": 6,
        "rollout.problems_per_round": 2,
        "rollout.max_response_tokens": 6,
        "evaluate.samples_per_problem": 4,
        "evaluate.pass_at": [1, 2, 4],
        "evaluate.bootstrap_samples": 200,
        "engine.name": "transformers",
    }
    return compose("nano", "arithmetic", "grpo", [f"{k}={v}" for k, v in {**small, **settings}.items()])


def answers(rewards: list[list[float | None]], greedy: list[float | None], levels: list[int]) -> pa.Table:
    """A row for every reward; each problem's greedy answer comes last."""
    rows = []
    for problem, (given, best, level) in enumerate(zip(rewards, greedy, levels, strict=True)):
        for sample, reward in enumerate([*given, best]):
            rows.append(
                {
                    "problem_id": f"p{problem}",
                    "group": problem,
                    "sample": sample % len(given),
                    "prompt_ids": [1],
                    "response_ids": [5] * (sample + 1),
                    "behaviour_logp": [-1.0] * (sample + 1),
                    "finish_reason": "length" if sample == 0 else "stop",
                    "reward": reward,
                    "reward_error": "killed" if reward is None else None,
                    "policy": "base",
                    "round": 0,
                    "seed": sample,
                    "question": "1 + 1",
                    "answer": "2",
                    "level": level,
                    "response": "2",
                    "greedy": sample == len(given),
                }
            )
    return pa.Table.from_pylist(rows, schema=ANSWERS)


def test_the_figures_are_those_of_the_table() -> None:
    table = answers([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], [1, 0, 1], [1, 1, 2])
    found = scores(tally(table), FIGURES, parameters(), 0)
    assert found["mean_at_n"]["value"] == pytest.approx(0.5)
    assert found["pass_at"]["1"] == pytest.approx(found["mean_at_n"])
    assert found["pass_at"]["2"]["value"] == pytest.approx((5 / 6 + 0 + 1) / 3)
    assert found["pass_at"]["4"]["value"] == pytest.approx(2 / 3)
    assert found["greedy"]["value"] == pytest.approx(2 / 3)
    assert found["levels"]["1"]["problems"] == 2
    assert found["levels"]["1"]["value"] == pytest.approx(0.25)
    assert found["levels"]["2"] == {"problems": 1, "value": 1.0, "low": 1.0, "high": 1.0}
    assert found["response_length"] == 2.5
    assert found["truncated"] == 0.25
    assert found["entropy"] == 1.0
    low, value, high = (found["mean_at_n"][name] for name in ("low", "value", "high"))
    assert low <= value <= high


def test_answers_without_a_reward_are_counted_and_left_out() -> None:
    table = answers([[1, None, None, 0], [None] * 4, [1, 1, 0, 0]], [None, 1, 0], [1, 1, 1])
    found = scores(tally(table), FIGURES, parameters(), 0)
    assert found["problems"] == 2
    assert found["samples"] == 12
    assert found["unjudged"] == 7
    assert found["reward_errors"] == {"killed": 7}
    assert found["mean_at_n"]["value"] == pytest.approx(0.5)
    assert found["pass_at"]["2"]["value"] == pytest.approx((1 + 5 / 6) / 2)
    assert found["pass_at"]["4"]["value"] == 1.0
    assert found["greedy"]["value"] == pytest.approx(0.5)


def test_a_judge_that_always_fails_leaves_no_figure_and_no_crash() -> None:
    found = scores(tally(answers([[None] * 4], [None], [1])), FIGURES, parameters(), 0)
    assert found["mean_at_n"] == {"value": None, "low": None, "high": None}
    assert found["levels"] == {}
    assert found["unjudged"] == 5


def test_figures_depend_on_the_seed_alone() -> None:
    table = answers([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]], [1, 0, 1, 0], [1, 1, 1, 1])
    first = scores(tally(table), FIGURES, parameters(), 3)
    assert scores(tally(table), FIGURES, parameters(), 3) == first
    assert (
        scores(tally(table), FIGURES, parameters(seed=1), 3)["mean_at_n"]["value"]
        == first["mean_at_n"]["value"]
    )


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1])
def test_the_interval_of_a_constant_is_that_constant(constant: float) -> None:
    found = mean_interval(np.full(7, constant), 0.95, 100, np.random.default_rng(0))
    assert (found.low, found.value, found.high) == (constant,) * 3


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    chance = np.random.default_rng(5)
    held = 0
    for trial in range(200):
        values = (chance.random(80) < 0.3).astype(np.float64)
        found = mean_interval(values, 0.9, 400, np.random.default_rng(trial))
        held += found.low <= 0.3 <= found.high
    assert 0.83 <= held / 200 <= 0.96


@pytest.fixture
def problem_set(run_stage: RunStage) -> Artefact:
    return run_stage(make_problems, parameters(), round=0)


def test_the_base_is_measured_and_its_kl_is_exactly_zero(
    run_stage: RunStage, tiny_model: Artefact, problem_set: Artefact
) -> None:
    params = parameters()
    done = run_stage(evaluate, params, round=0, model=tiny_model, problems=problem_set)
    found, table = done.json("scores.json"), read_table(done.file("answers.parquet"))
    assert table.schema.names == ANSWERS.names
    assert len(table) == 6 * (4 + 1)
    assert pc.sum(table["greedy"]).as_py() == 6
    held_out = read_table(problem_set.file("held_out.parquet"))
    gold = dict(zip(held_out["problem_id"].to_pylist(), held_out["answer"].to_pylist(), strict=True))
    for row in table.to_pylist():
        assert row["answer"] == gold[row["problem_id"]]
        assert row["policy"] == tiny_model.digest
    assert found["kl_to_base"] == 0.0
    assert found["samples"] == 24
    vocabulary = len(nano.tokenizer())
    assert 0.9 * np.log(vocabulary) < found["entropy"] <= np.log(vocabulary) + 1e-6
    first, second, third = found["rank_probabilities"]
    assert first > second > third > 1 / vocabulary / 2
    assert found["tokens"] == sum(
        map(len, table.filter(pc.invert(table["greedy"]))["response_ids"].to_pylist())
    )
    assert done.manifest.measured["seconds"] > 0


def test_it_is_the_same_to_the_byte_when_made_again(
    run_stage: RunStage, tiny_model: Artefact, problem_set: Artefact
) -> None:
    first, second = (
        run_stage(evaluate, parameters(), round=0, model=tiny_model, problems=problem_set) for _ in range(2)
    )
    assert first.digest == second.digest


def test_the_trainer_scores_as_many_problems_as_it_is_told(
    run_stage: RunStage, tiny_model: Artefact, problem_set: Artefact
) -> None:
    inputs = {"model": tiny_model, "problems": problem_set}
    whole = run_stage(evaluate, parameters(), round=0, **inputs)
    part = run_stage(evaluate, parameters(**{"evaluate.scored_problems": 2}), round=0, **inputs)
    assert part.file("answers.parquet").read_bytes() == whole.file("answers.parquet").read_bytes()
    rows = [row for row in read_table(part.file("answers.parquet")).to_pylist() if not row["greedy"]]
    of_two = sum(len(row["response_ids"]) for row in rows if row["group"] in (0, 3))
    found, all_of_it = part.json("scores.json"), whole.json("scores.json")
    assert found["tokens"] == of_two < all_of_it["tokens"]
    own = ("tokens", "entropy", "rank_probabilities")
    assert found["entropy"] == pytest.approx(all_of_it["entropy"], rel=0.1)
    assert {k: v for k, v in found.items() if k not in own} == {
        k: v for k, v in all_of_it.items() if k not in own
    }


def test_settings_of_its_own_say_how_answers_are_sampled(
    run_stage: RunStage, tiny_model: Artefact, problem_set: Artefact
) -> None:
    inputs = {"model": tiny_model, "problems": problem_set}

    def answers_with(**settings: Any) -> list[dict[str, Any]]:
        made = run_stage(evaluate, parameters(**settings), round=0, **inputs)
        return read_table(made.file("answers.parquet")).to_pylist()

    plain = answers_with()
    surest = answers_with(**{"evaluate.top_k": 1})
    greedy = {row["problem_id"]: row["response_ids"] for row in plain if row["greedy"]}
    assert all(row["response_ids"] == greedy[row["problem_id"]] for row in surest)
    assert any(row["response_ids"] != greedy[row["problem_id"]] for row in plain)
    assert all(
        row["behaviour_logp"] == [0.0] * len(row["response_ids"]) for row in surest if not row["greedy"]
    )
    narrow = answers_with(**{"evaluate.top_p": 1e-6})
    assert [row["response_ids"] for row in narrow] == [row["response_ids"] for row in surest]
    cold = answers_with(**{"evaluate.temperature": 1e-4})
    assert [row["response_ids"] for row in cold] == [row["response_ids"] for row in surest]
    short = answers_with(**{"evaluate.max_response_tokens": 2})
    assert {len(row["response_ids"]) for row in short} <= {1, 2}
    assert answers_with(**{"rollout.temperature": 0.5, "evaluate.temperature": 1.0}) == plain


def test_however_many_answers_only_a_part_is_in_memory(
    run_stage: RunStage, tiny_model: Artefact, problem_set: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"model": tiny_model, "problems": problem_set}
    settings = {"evaluate.samples_per_problem": 64, "evaluate.pass_at": [1, 2, 4, 8, 16, 32, 64]}
    whole = run_stage(evaluate, parameters(**settings), round=0, **inputs)
    held: list[int] = []
    asked = parts.sample

    def watched(job: Job, stage: str, problems: pa.Table, samples: int, *more: Any, **options: Any) -> Any:
        held.append(len(problems) * samples)
        return asked(job, stage, problems, samples, *more, **options)

    monkeypatch.setattr(parts, "sample", watched)
    monkeypatch.setattr(evaluation, "PART", 2 * 64 * (6 + evaluation.OVERHEAD))
    by_parts = run_stage(evaluate, parameters(**settings), round=0, **inputs)
    assert held == [128, 128, 128, 6]
    one, other = (read_table(made.file("answers.parquet")) for made in (whole, by_parts))
    same = [name for name in one.column_names if name != "behaviour_logp"]  # rounded as its batch was cut
    assert one.select(same).equals(other.select(same))
    found, of_all = by_parts.json("scores.json"), whole.json("scores.json")
    assert found["pass_at"] == of_all["pass_at"]
    assert found["tokens"] == of_all["tokens"]
    assert found["entropy"] == pytest.approx(of_all["entropy"], rel=1e-6)


def test_pass_at_many_k_comes_from_the_same_answers() -> None:
    many = {"evaluate.samples_per_problem": 1024, "evaluate.pass_at": [1, 16, 256, 1024]}
    right = [[1.0] * count + [0.0] * (1024 - count) for count in (0, 1, 3, 1024)]
    found = scores(tally(answers(right, [0.0] * 4, [1] * 4)), FIGURES, parameters(**many), 0)
    assert found["mean_at_n"]["value"] == pytest.approx((0 + 1 + 3 + 1024) / 4096)
    once, thrice = 256 / 1024, 1 - (768 * 767 * 766) / (1024 * 1023 * 1022)
    assert found["pass_at"]["256"]["value"] == pytest.approx((0 + once + thrice + 1) / 4)
    assert found["pass_at"]["1024"]["value"] == pytest.approx(3 / 4)


def test_a_trained_policy_has_moved_from_the_base(
    run_stage: RunStage, tiny_model: Artefact, problem_set: Artefact
) -> None:
    params = parameters(**{"update.learning_rate": 0.05, "update.warmup_steps": 0})
    inputs = {"model": tiny_model, "problems": problem_set}
    rollouts = read_table(run_stage(rollout, params, **inputs).file("rollouts.parquet"))
    rewards = pa.array([float(i % 2) for i in range(len(rollouts))], pa.float32())
    judged = rollouts.set_column(rollouts.schema.get_field_index("reward"), "reward", rewards)

    def rewarded(job: Job) -> dict[str, float]:
        write_table(job.out / "rollouts.parquet", judged.cast(ROLLOUTS))
        return {}

    policy = run_stage(update, params, model=tiny_model, rollout=run_stage(rewarded, params))
    done = run_stage(evaluate, params, policy=policy, **inputs)
    assert done.json("scores.json")["kl_to_base"] > 0
    base = run_stage(evaluate, params, round=0, **inputs)
    assert base.json("scores.json")["kl_to_base"] == 0.0
    assert read_table(done.file("answers.parquet"))["policy"][0].as_py() == policy.digest
