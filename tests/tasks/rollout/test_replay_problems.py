"""ExGRPO through the real stages: problems return with one answer less, and the update fills their groups."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table
from tasks.replay.replay import replay
from tasks.rollout.rollout import problems_of, rollout
from tasks.update.update import update
from tests.tasks.conftest import Nano, nano_parameters

ROUNDS = 4


@dataclass
class Run:
    params: Params
    rollouts: list[Artefact]
    snapshots: list[Artefact]
    updates: list[Artefact]

    def answers(self, round: int) -> list[dict[str, Any]]:
        return read_table(self.rollouts[round - 1].file("rollouts.parquet")).to_pylist()

    def held(self, round: int) -> list[dict[str, Any]]:
        return read_table(self.snapshots[round - 1].file("buffer.parquet")).to_pylist()


def run(nano: Nano, params: Params, rounds: int = ROUNDS) -> Run:
    made = Run(params, [], [], [])
    given = {"model": nano.model, "problems": nano.problems}
    policy = snapshot = None
    for round in range(1, rounds + 1):
        made.rollouts.append(nano.run(rollout, params, round, **given, policy=policy, replay=snapshot))
        fresh = made.rollouts[-1]
        made.updates.append(
            nano.run(update, params, round, model=nano.model, rollout=fresh, policy=policy, replay=snapshot)
        )
        snapshot = nano.run(replay, params, round, rollout=fresh, replay=snapshot)
        policy = made.updates[-1]
        made.snapshots.append(snapshot)
    return made


@pytest.fixture(scope="module")
def exgrpo(nano: Nano) -> Run:
    return run(nano, nano_parameters("exgrpo", "replay.start_above=0.05"))


def test_before_there_is_a_pool_the_round_is_as_usual(nano: Nano, exgrpo: Run) -> None:
    assert exgrpo.rollouts[0].digest == nano.rollouts[0].digest
    never = run(nano, nano_parameters("exgrpo", "replay.start_above=1.0"), 2)
    assert Counter(row["group"] for row in never.answers(2)) == dict.fromkeys(range(8), 4)
    assert never.updates[1].json("metrics.json")["replayed"] == 0


def test_at_most_half_of_the_problems_return_and_are_asked_once_less(exgrpo: Run) -> None:
    for round in range(2, ROUNDS + 1):
        answers = exgrpo.answers(round)
        sizes = Counter(row["group"] for row in answers)
        assert list(sizes) == list(range(8))
        short = {row["problem_id"] for row in answers if sizes[row["group"]] == 3}
        usual = {row["problem_id"] for row in answers if sizes[row["group"]] == 4}
        assert 1 <= len(short) <= 4
        assert len(short) + len(usual) == 8
        assert short <= {row["problem_id"] for row in exgrpo.held(round - 1)}
        said = exgrpo.updates[round - 1].json("metrics.json")
        assert said["replayed"] == len(short)
        assert said["exgrpo.ratio"] > 0.0


def test_a_round_begins_with_the_usual_problems(nano: Nano, exgrpo: Run) -> None:
    training = read_table(nano.problems.file("train.parquet"))["problem_id"].to_pylist()
    order = [training[i] for i in problems_of(exgrpo.params.seed, 2, len(training), 8)]
    answers = exgrpo.answers(2)
    sizes = Counter(row["group"] for row in answers)
    usual = list(dict.fromkeys(row["problem_id"] for row in answers if sizes[row["group"]] == 4))
    short = {row["problem_id"] for row in answers if sizes[row["group"]] == 3}
    assert usual == [problem for problem in order if problem not in short][: len(usual)]


def test_a_retired_problem_is_not_asked_again(nano: Nano) -> None:
    made = run(nano, nano_parameters("exgrpo", "replay.start_above=0.0", "task.train_count=24"))
    retired: set[str] = set()
    for round in range(1, ROUNDS + 1):
        asked = {row["problem_id"] for row in made.answers(round)}
        assert not asked & retired
        results = read_table(made.snapshots[round - 1].file("results.parquet")).to_pylist()
        retired |= {row["problem_id"] for row in results if row["correct"] == row["samples"]}
        assert not retired & {row["problem_id"] for row in made.held(round)}


def test_it_repeats_itself(nano: Nano, exgrpo: Run) -> None:
    again = run(nano, exgrpo.params)
    for one, two in zip(exgrpo.updates, again.updates, strict=True):
        assert one.digest == two.digest
