"""Dynamic sampling: which groups stay, how many further problems are asked for, which, and what is told."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tasks.rollout.rollout
from params.engine import Engine
from params.schema import Params, Rollout
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import PROBLEMS, ROLLOUTS, read_table, write_table
from tasks.rewards.base import Group, Verdict
from tasks.rollout import dynamic_sampling
from tasks.rollout.rollout import metrics, problems_of, rollout
from tasks.update.update import update
from tests.conftest import RunStage, as_artefact
from tests.tasks.rollout_rows import parameters, rows

TRAIN, ROUND, SAMPLES = 30, 4, 3
REWARDS = st.lists(st.sampled_from([0.0, 1.0, None]), min_size=2, max_size=4)
BATCHES = st.lists(st.lists(REWARDS, min_size=1, max_size=5), min_size=1, max_size=4)


def params_with(refill_batches: int, problems_per_round: int = ROUND) -> Params:
    options = Rollout(
        problems_per_round=problems_per_round,
        samples_per_problem=SAMPLES,
        max_response_tokens=8,
        refill_batches=refill_batches,
    )
    engine = Engine(name="transformers")
    return parameters(context=96).model_copy(update={"rollout": options, "engine": engine})


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    folder = tmp_path_factory.mktemp("problems")
    made = [
        {"problem_id": f"p{i}", "question": f"{i} + 1", "answer": str(i), "level": 1, "source": "test"}
        for i in range(TRAIN)
    ]
    for name in ("train", "held_out"):
        write_table(folder / f"{name}.parquet", pa.Table.from_pylist(made, schema=PROBLEMS))
    return as_artefact(folder, "problems")


def judged_by_chance(self: object, group: Group, explain: bool) -> list[Verdict]:
    """Every third problem is worth a group; the other ones are right all through."""
    return [
        Verdict(float(int(group.gold) % 3 != 0 or zlib.crc32(answer.text.encode()) % 2))
        for answer in group.answers
    ]


def is_varied(rewards: list[float | None]) -> bool:
    return len({reward for reward in rewards if reward is not None}) > 1


@settings(deadline=None)
@given(BATCHES, st.integers(1, 6))
def test_the_first_varied_groups_stay_in_order(drawn: list[list[list[float | None]]], most: int) -> None:
    made = [rows(batch, seed=number) for number, batch in enumerate(drawn)]
    for number, batch in enumerate(made):
        for row in batch:
            row["problem_id"] = f"b{number}-{row['problem_id']}"
    tables = [pa.Table.from_pylist(batch, schema=ROLLOUTS) for batch in made]
    kept = dynamic_sampling.filled(tables, most)
    assert kept.schema.equals(ROLLOUTS)
    expected = [
        [row for row in batch if row["group"] == group]
        for batch, given_rewards in zip(made, drawn, strict=True)
        for group, rewards in enumerate(given_rewards)
        if is_varied(rewards)
    ][:most]
    if not expected:
        assert kept.equals(tables[-1])
        return
    renumbered = [{**row, "group": number} for number, group in enumerate(expected) for row in group]
    assert kept.to_pylist() == pa.Table.from_pylist(renumbered, schema=ROLLOUTS).to_pylist()


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(0, 200), st.integers(0, 200), st.integers(1, 64))
def test_as_many_problems_as_are_likely_needed(missing: int, found: int, constant: int, most: int) -> None:
    sampled = found + constant
    needed = dynamic_sampling.wanted(missing, found, sampled, 10**6)
    rate = (found + 1) / (sampled + 2)

    def surely(count: int) -> float:
        return count * rate - math.sqrt(count * rate * (1.0 - rate))

    assert surely(needed) >= missing - 1e-6
    assert surely(needed - 1) < missing + 1e-6
    assert needed >= missing
    assert dynamic_sampling.wanted(missing, found, sampled, most) == min(needed, most)
    assert dynamic_sampling.wanted(missing, found + 1, sampled + 1, 10**6) <= needed
    assert dynamic_sampling.wanted(missing + 1, found, sampled, 10**6) > needed


def test_enough_groups_ask_for_nothing() -> None:
    assert dynamic_sampling.wanted(0, 4, 4, 8) == dynamic_sampling.wanted(-2, 6, 8, 8) == 0
    assert not len(dynamic_sampling.further(0, 1, 1, 10, [0, 1], 0))


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(1, 9), st.integers(1, 20), st.data())
def test_further_problems_are_new_to_the_round(
    seed: int, round: int, count: int, data: st.DataObject
) -> None:
    used = data.draw(st.lists(st.integers(0, count - 1), unique=True))
    drawn = [dynamic_sampling.further(seed, round, attempt, count, used, count) for attempt in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    for chosen in drawn:
        assert sorted([*chosen, *used]) == list(range(count))
    fewer = dynamic_sampling.further(seed, round, 1, count, used, 3)
    assert fewer == drawn[0][:3]


def test_another_round_and_attempt_draw_others() -> None:
    def drawn(seed: int, round: int, attempt: int) -> list[int]:
        return dynamic_sampling.further(seed, round, attempt, 50, [], 50)

    assert len({tuple(drawn(*key)) for key in ((0, 1, 1), (1, 1, 1), (0, 2, 1), (0, 1, 2))}) == 4


def test_a_round_is_refilled(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rewards.judge._Worker.judge", judged_by_chance)
    inputs = {"model": tiny_model, "problems": problems}
    made = [run_stage(rollout, params_with(8), round=2, **inputs) for _ in range(2)]
    assert made[0].digest == made[1].digest
    answers, told = read_table(made[0].file("rollouts.parquet")), made[0].json("metrics.json")
    first = [f"p{i}" for i in problems_of(0, 2, TRAIN, ROUND)]
    kept = answers["problem_id"].to_pylist()[::SAMPLES]
    assert answers["group"].to_pylist() == [group for group in range(ROUND) for _ in range(SAMPLES)]
    assert answers["sample"].to_pylist() == list(range(SAMPLES)) * ROUND
    assert dynamic_sampling.varied(answers) == list(range(ROUND))
    assert len(set(kept)) == ROUND
    assert [name for name in kept if name in first] == [name for name in first if name in kept]
    assert set(kept) - set(first)
    assert len(set(answers["seed"].to_pylist())) == ROUND * SAMPLES
    assert {key: told[key] for key in metrics(answers)} == metrics(answers)
    assert told["batches_sampled"] > 1
    assert told["groups_sampled"] > ROUND
    assert 0.5 < told["drop_rate"] < 1.0
    assert told["drop_rate"] < 1.0 - ROUND / told["groups_sampled"] + 1e-9
    assert told["tokens_sampled"] == made[0].manifest.measured["sampled_tokens"]
    assert told["tokens_sampled"] > pc.sum(pc.list_value_length(answers["response_ids"])).as_py()
    assert told["reward_mean_sampled"] > told["reward_mean"]
    assert told["unjudged_sampled"] == 0.0


def test_what_is_kept_of_the_first_batch_is_what_it_was_without_refilling(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rewards.judge._Worker.judge", judged_by_chance)
    inputs = {"model": tiny_model, "problems": problems}
    plain, refilled = (run_stage(rollout, params_with(batches), round=2, **inputs) for batches in (0, 8))
    told = plain.json("metrics.json")
    answers = read_table(plain.file("rollouts.parquet"))
    assert told == metrics(answers)
    assert answers.num_rows == ROUND * SAMPLES
    both = {
        (row["problem_id"], row["sample"]): row["response_ids"]
        for row in read_table(refilled.file("rollouts.parquet")).to_pylist()
    }
    same = [row for row in answers.to_pylist() if (row["problem_id"], row["sample"]) in both]
    assert same
    assert all(row["response_ids"] == both[row["problem_id"], row["sample"]] for row in same)


def test_too_few_varied_groups_make_a_smaller_round(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rewards.judge._Worker.judge", judged_by_chance)
    made = run_stage(rollout, params_with(1), round=2, model=tiny_model, problems=problems)
    answers, told = read_table(made.file("rollouts.parquet")), made.json("metrics.json")
    assert told["batches_sampled"] == 2
    assert told["groups_sampled"] == 2 * ROUND
    count = len(pc.unique(answers["group"]))
    assert 0 < count < ROUND
    assert told["drop_rate"] == pytest.approx(1.0 - count / (2 * ROUND))


def test_where_no_group_varies_the_last_batch_stays(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rewards.judge._Worker.judge", lambda *asked: [Verdict(1.0)])
    made = run_stage(rollout, params_with(2), model=tiny_model, problems=problems)
    answers, told = read_table(made.file("rollouts.parquet")), made.json("metrics.json")
    first = [f"p{i}" for i in problems_of(0, 1, TRAIN, ROUND)]
    assert answers.num_rows == ROUND * SAMPLES
    assert not set(answers["problem_id"].to_pylist()) & set(first)
    assert (told["batches_sampled"], told["drop_rate"], told["constant_groups"]) == (3, 1.0, 1.0)
    idle = run_stage(update, params_with(2), model=tiny_model, rollout=made).json("metrics.json")
    assert (idle["steps"], idle["idle_steps"], idle["constant_groups"]) == (0, 1, 1.0)


def test_a_training_set_that_runs_out_ends_the_search(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rewards.judge._Worker.judge", lambda *asked: [Verdict(None, "it hung")])
    made = run_stage(rollout, params_with(9, TRAIN - 2), model=tiny_model, problems=problems)
    told = made.json("metrics.json")
    assert (told["batches_sampled"], told["groups_sampled"]) == (2, TRAIN)
    assert read_table(made.file("rollouts.parquet")).num_rows == 2 * SAMPLES
    assert told["reward_mean_sampled"] is None
    assert told["unjudged_sampled"] == 1.0


def test_later_rounds_get_the_problems_that_they_would_have_had(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rewards.judge._Worker.judge", lambda *asked: [Verdict(1.0)])
    asked: list[list[str]] = []
    sample = tasks.rollout.rollout.sample

    def spy(job: object, stage: str, table: pa.Table, *options: object) -> object:
        asked.append(table["problem_id"].to_pylist())
        return sample(job, stage, table, *options)

    monkeypatch.setattr("tasks.rollout.rollout.sample", spy)
    for round in (1, 2):
        run_stage(rollout, params_with(2), round=round, model=tiny_model, problems=problems)
    assert [asked[0], asked[3]] == [
        [f"p{i}" for i in problems_of(0, round, TRAIN, ROUND)] for round in (1, 2)
    ]
    for batches in (asked[:3], asked[3:]):
        together = np.concatenate(batches)
        assert len(set(together)) == len(together) == 3 * ROUND
