"""``rollout`` through the real stage: which problems, which seeds, what is written, what is refused."""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from params.base import BadInput, Choice
from params.engine import Engine
from params.evaluation import Evaluate
from params.method import Method
from params.schema import Params, Rollout
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import PROBLEMS, ROLLOUTS, read_table, write_table
from tasks.core import seeds
from tasks.core.context import Context
from tasks.core.errors import StageFailure
from tasks.policy.policy import Policy
from tasks.rewards.base import Group, Verdict
from tasks.rewards.judge import Judge
from tasks.rollout.rollout import metrics, problems_of, rollout
from tasks.update.responses import Responses
from tasks.update.update import update
from tests.conftest import RunStage, as_artefact
from tests.tasks.rollout_rows import parameters

TRAIN = 10


def settings(**model: int) -> Params:
    chosen = parameters(**{"context": 96, **model})
    options = Rollout(problems_per_round=4, samples_per_problem=3, max_response_tokens=8, temperature=0.9)
    engine = Engine(name="transformers")
    return chosen.model_copy(update={"rollout": options, "engine": engine})


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    folder = tmp_path_factory.mktemp("problems")
    rows = [
        {
            "problem_id": f"p{i}",
            "question": f"{i} + 1 = ?",
            "answer": str(i + 1),
            "level": 1,
            "source": "test",
        }
        for i in range(TRAIN)
    ]
    for name in ("train", "held_out"):
        write_table(folder / f"{name}.parquet", pa.Table.from_pylist(rows, schema=PROBLEMS))
    return as_artefact(folder, "problems")


@pytest.fixture
def policy(tiny_model: Artefact, tmp_path: Path) -> Artefact:
    """A policy whose adapter is not zero."""
    trainer = Policy.open(tiny_model.path, settings())
    with torch.no_grad():
        for name, weight in trainer.weights.masters.items():
            if ".lora_B." in name:
                weight.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(0))
    trainer.stepped()
    (tmp_path / "policy").mkdir()
    trainer.save(tmp_path / "policy")
    return as_artefact(tmp_path / "policy", "update", 1)


def test_the_stage(run_stage: RunStage, tiny_model: Artefact, problems: Artefact) -> None:
    params = settings()
    made = run_stage(rollout, params, round=2, model=tiny_model, problems=problems)
    answers = read_table(made.file("rollouts.parquet"))
    assert answers.schema.equals(ROLLOUTS)
    assert answers.num_rows == 12
    assert answers["group"].to_pylist() == [group for group in range(4) for _ in range(3)]
    assert answers["sample"].to_pylist() == [0, 1, 2] * 4
    expected = [f"p{i}" for i in problems_of(params.seed, 2, TRAIN, 4)]
    assert answers["problem_id"].to_pylist()[::3] == expected
    for row in answers.to_pylist():
        assert row["seed"] == seeds.seed(params.seed, "rollout", 2, row["problem_id"], row["sample"])
        assert row["policy"] == tiny_model.digest
        assert row["round"] == 2
        assert row["reward"] in (0.0, 1.0)
        assert 1 <= len(row["response_ids"]) == len(row["behaviour_logp"]) <= 8
    assert made.json("metrics.json") == json.loads(json.dumps(metrics(answers)))
    measured = made.manifest.measured
    assert measured["sampled_tokens"] == pc.sum(pc.list_value_length(answers["response_ids"])).as_py()
    assert measured["tokens_per_second"] > 0.0
    assert measured["seconds"] >= measured["sampling_seconds"] > 0.0


def test_a_second_making_has_the_same_bytes(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, policy: Artefact, tmp_path: Path
) -> None:
    inputs = {"model": tiny_model, "problems": problems, "policy": policy}
    first = run_stage(rollout, settings(), **inputs)
    other = run_stage(rollout, settings(), round=3, **inputs)
    again = run_stage(rollout, settings(), **inputs)
    assert first.digest == again.digest != other.digest


def test_a_policy_answers_for_itself(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, policy: Artefact
) -> None:
    base = run_stage(rollout, settings(), model=tiny_model, problems=problems)
    trained = run_stage(rollout, settings(), model=tiny_model, problems=problems, policy=policy)
    ours, theirs = (read_table(made.file("rollouts.parquet")) for made in (trained, base))
    assert set(ours["policy"].to_pylist()) == {policy.digest}
    assert ours["seed"] == theirs["seed"]
    assert ours["behaviour_logp"] != theirs["behaviour_logp"]


def test_an_answer_does_not_depend_on_the_others(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact
) -> None:
    few = settings()
    many = few.model_copy(update={"rollout": few.rollout.model_copy(update={"samples_per_problem": 5})})
    tables = [
        read_table(run_stage(rollout, params, model=tiny_model, problems=problems).file("rollouts.parquet"))
        for params in (few, many)
    ]
    same = tables[1].filter(pc.less(tables[1]["sample"], 3))
    assert same["response_ids"].to_pylist() == tables[0]["response_ids"].to_pylist()


def test_an_epoch_holds_every_problem_once() -> None:
    for epoch in range(3):
        rounds = [problems_of(7, 5 * epoch + place + 1, 10, 2) for place in range(5)]
        assert sorted(int(i) for batch in rounds for i in batch) == list(range(10))
    assert list(problems_of(7, 1, 10, 2)) != list(problems_of(7, 6, 10, 2)) != list(problems_of(8, 1, 10, 2))


def test_a_batch_never_straddles_two_epochs() -> None:
    seen = [problems_of(0, round, 10, 4) for round in range(1, 9)]
    for batch in seen:
        assert len(set(batch.tolist())) == 4
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert not set(first.tolist()) & set(second.tolist())


def test_a_prompt_without_room_is_named(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact
) -> None:
    said = (
        r"problem p\d: its prompt has \d+ tokens, the most of \d+ that are too long .*; expected at most 7 "
    )
    with pytest.raises(BadInput, match=said):
        run_stage(rollout, settings(context=15), model=tiny_model, problems=problems)


def test_a_prompt_leaves_room_for_an_evaluations_longest_answer(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact
) -> None:
    params = settings(context=48)
    run_stage(rollout, params, model=tiny_model, problems=problems)
    longer = params.model_copy(update={"evaluate": Evaluate(max_response_tokens=44)})
    said = r"expected at most 4 tokens, model.context - evaluate.max_response_tokens"
    with pytest.raises(BadInput, match=said):
        run_stage(rollout, longer, model=tiny_model, problems=problems)


def test_the_likeliest_tokens_are_stored_end_to_end(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact
) -> None:
    params = settings()
    plain = run_stage(rollout, params, model=tiny_model, problems=problems)
    chosen = params.rollout.model_copy(update={"top_logprobs": 4})
    asked = params.model_copy(update={"rollout": chosen})
    made = run_stage(rollout, asked, model=tiny_model, problems=problems)
    answers = read_table(made.file("rollouts.parquet"))
    without = read_table(plain.file("rollouts.parquet"))
    assert without["top_ids"].null_count == without["top_logp"].null_count == without.num_rows
    assert answers.drop_columns(["top_ids", "top_logp"]).equals(without.drop_columns(["top_ids", "top_logp"]))
    read = Responses.read(made.file("rollouts.parquet"), asked)
    assert read.top is not None
    for (ids, logp), response, own in zip(read.top, read.responses, read.engine_logp, strict=True):
        assert ids.shape == logp.shape == (len(response), 4)
        assert bool((logp[:, :-1] >= logp[:, 1:]).all())
        sampled = ids == torch.tensor(response)[:, None]
        assert torch.equal(logp[sampled], own[sampled.any(1)])


@pytest.mark.parametrize("dtype", ["float32", "float8"])
def test_the_likeliest_tokens_reach_a_method_that_compares_them(
    run_stage: RunStage,
    tiny_model: Artefact,
    problems: Artefact,
    monkeypatch: pytest.MonkeyPatch,
    dtype: Literal["float32", "float8"],
) -> None:
    def judge(self: object, group: Group, explain: bool) -> list[Verdict]:
        return [Verdict(float(zlib.crc32(answer.text.encode()) % 2)) for answer in group.answers]

    monkeypatch.setattr("tasks.rewards.judge._Worker.judge", judge)
    params = settings()
    objective = Choice(name="dppo", divergence="top_tv", k=4)
    chosen = params.model_copy(
        update={
            "rollout": params.rollout.model_copy(update={"top_logprobs": 4}),
            "engine": Engine(name="transformers", dtype=dtype),
            "method": Method(objective=objective, scale_by_std=False, aggregation="constant"),
            "update": params.update.model_copy(update={"tokens_per_micro_batch": 128}),
        }
    )
    made = run_stage(rollout, chosen, model=tiny_model, problems=problems)
    learnt = run_stage(update, chosen, model=tiny_model, rollout=made).json("metrics.json")
    assert learnt["steps"] == 1
    if dtype == "float32":
        assert learnt["divergence_max"] < 1e-5
    else:
        assert 1e-5 < learnt["divergence"] < 0.1
        assert 1e-4 < learnt["mismatch"] < 0.2


def test_a_failed_judgement_is_a_null_and_is_counted(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rewards.judge._Worker.judge", lambda *asked: [Verdict(None, "it hung")])
    made = run_stage(rollout, settings(), model=tiny_model, problems=problems)
    answers = read_table(made.file("rollouts.parquet"))
    assert answers["reward"].null_count == 12
    written = made.json("metrics.json")
    assert written["reward_mean"] is None
    assert written["unjudged"] == 1.0
    assert written["reward_errors"] == {"it hung": 12}


def test_a_judge_that_does_not_start_fails_the_stage(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (sys.executable, "-c", "raise SystemExit('no judge today')")
    monkeypatch.setattr("tasks.rewards.judge._COMMAND", command)
    with pytest.raises(StageFailure, match="the judge does not start: no judge today"):
        run_stage(rollout, settings(), model=tiny_model, problems=problems)


def test_engine_and_judge_are_kept(
    run_stage: RunStage, context: Context, tiny_model: Artefact, problems: Artefact
) -> None:
    run_stage(rollout, settings(), model=tiny_model, problems=problems)
    kept = dict(context._kept)
    run_stage(rollout, settings(), round=2, model=tiny_model, problems=problems)
    assert dict(context._kept) == kept
    assert len(kept) == 5  # and the prompts, and the problems whose prompts fit
    assert any(isinstance(each, Judge) for each in kept.values())


def test_metrics() -> None:
    def row(group: int, reward: float | None, tokens: int, error: str | None = None) -> dict[str, object]:
        return {
            "problem_id": f"p{group}",
            "group": group,
            "sample": 0,
            "prompt_ids": [1],
            "response_ids": [3] * tokens,
            "behaviour_logp": [-0.5] * tokens,
            "finish_reason": "length" if tokens == 4 else "stop",
            "reward": reward,
            "reward_error": error,
            "policy": "x",
            "round": 1,
            "seed": 0,
        }

    rows = [
        row(0, 1.0, 4),
        row(0, 0.0, 2, "no number"),
        row(1, 1.0, 1),
        row(1, 1.0, 1),
        row(2, None, 4, "died"),
    ]
    assert metrics(pa.Table.from_pylist(rows, schema=ROLLOUTS)) == {
        "responses": 5,
        "reward_mean": 0.75,
        "solved": 0.75,
        "constant_groups": pytest.approx(2 / 3),
        "unjudged": 0.2,
        "reward_errors": {"died": 1, "no number": 1},
        "response_length_mean": 2.4,
        "response_length_max": 4,
        "truncated": 0.4,
        "entropy_estimate": 0.5,
    }
