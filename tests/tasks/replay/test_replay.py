"""Laws of the replay buffer, driven through the stage that uses it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.replay_buffer import ReplayBuffer
from params.schema import Replay
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import REPLAY, ROLLOUTS, read_table
from tasks.replay.replay import replay
from tests.conftest import RunStage
from tests.tasks.rollout_rows import parameters, rollout_artefact, rows

Snapshots = Callable[..., list[Artefact]]
MIXED = [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, None]]


@pytest.fixture
def snapshots(run_stage: RunStage, tmp_path: Path) -> Snapshots:
    """``snapshots(rules, rewards, rounds)``: the stage's artefact after each round."""
    count = itertools.count()

    def run(rules: Replay, rewards: list[list[Any]], rounds: int) -> list[Artefact]:
        made: list[Artefact] = []
        for round in range(1, rounds + 1):
            fresh = rollout_artefact(tmp_path / f"rollout-{next(count)}", rows(rewards, round), round)
            previous = made[-1] if made else None
            made.append(run_stage(replay, parameters(replay=rules), round, rollout=fresh, replay=previous))
        return made

    return run


def table(artefact: Artefact) -> pa.Table:
    return read_table(artefact.file("buffer.parquet"))


def places(artefact: Artefact) -> list[tuple[int, int]]:
    return [(row["group"], row["sample"]) for row in table(artefact).to_pylist()]


@pytest.mark.parametrize(
    ("admit", "expected"),
    [
        ("none", []),
        ("correct", [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]),
        ("correct_unless_all", [(0, 0), (0, 2)]),
        ("all", [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]),
    ],
)
def test_each_rule_admits_what_it_says(
    snapshots: Snapshots, admit: Any, expected: list[tuple[int, int]]
) -> None:
    (only,) = snapshots(Replay(admit=admit, per_problem=3), MIXED, 1)
    assert places(only) == expected
    metrics = only.json("metrics.json")
    assert metrics["offered"] == 9
    assert metrics["admitted"] == metrics["rows"] == len(expected)
    assert sum(metrics["refused"].values()) == 9 - len(expected)
    assert metrics["refused"]["no_reward"] == 1


def test_a_problem_enters_so_many_times_a_round(snapshots: Snapshots) -> None:
    (only,) = snapshots(Replay(admit="correct", per_problem=2), MIXED, 1)
    assert places(only) == [(0, 0), (0, 2), (1, 0), (1, 1)]
    assert only.json("metrics.json")["refused"]["enough_of_problem"] == 1


def test_the_oldest_leave_first_by_age_and_by_capacity(snapshots: Snapshots) -> None:
    aged = snapshots(Replay(admit="correct", per_problem=3, max_age=2), MIXED, 5)
    assert [sorted(set(table(a)["round"].to_pylist())) for a in aged] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [3, 4, 5],
    ]
    said = aged[-1].json("metrics.json")["cohorts"]
    assert (said["2"]["kept"], said["2"]["dropped"], said["2"]["kept_as"]) == (0, {"age": 5}, None)
    assert (said["3"]["kept"], said["3"]["dropped"]) == (5, {})
    assert said["3"]["kept_as"] == "age 2 of at most 2"
    full = snapshots(Replay(admit="correct", per_problem=3, max_age=9, capacity=7), MIXED, 3)
    assert table(full[-1])["round"].to_pylist() == [2] * 2 + [3] * 5
    said = full[-1].json("metrics.json")["cohorts"]["2"]
    assert (said["kept"], said["dropped"]) == (2, {"capacity": 3})


def test_what_is_in_never_changes(snapshots: Snapshots) -> None:
    made = snapshots(Replay(admit="all", per_problem=3, max_age=9), MIXED, 3)
    first = table(made[0]).to_pylist()
    assert table(made[2]).to_pylist()[: len(first)] == first
    assert first[0]["group_accuracy"] == pytest.approx(2 / 3)
    assert {row["admitted_as"] for row in first} == {"all"}
    assert table(made[2]).schema.equals(REPLAY)


def test_the_same_rounds_give_the_same_bytes(snapshots: Snapshots) -> None:
    rules = Replay(admit="correct", per_problem=2, capacity=6)
    assert [a.digest for a in snapshots(rules, MIXED, 3)] == [a.digest for a in snapshots(rules, MIXED, 3)]


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, None]), min_size=2, max_size=4), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 12),
)
@settings(max_examples=25, deadline=None)
def test_laws(rewards: list[list[Any]], per_problem: int, max_age: int, capacity: int) -> None:
    rules = Replay(admit="correct", per_problem=per_problem, max_age=max_age, capacity=capacity)
    buffer = ReplayBuffer(rules)
    seen = 0
    for round in range(1, 6):
        before = len(buffer)
        old = buffer.evict(round)
        fates = buffer.admit(pa.Table.from_pylist(rows(rewards, round), schema=ROLLOUTS), round)
        seen += fates.get("admitted", 0)
        left = sum(sum(reasons.values()) for gone in (old, buffer.trim()) for reasons in gone.values())
        assert len(buffer) == before + fates.get("admitted", 0) - left
        assert len(buffer) <= min(capacity, seen)
        assert all(round - born <= max_age for born in buffer.cohorts())
        assert ReplayBuffer(rules, buffer.to_table()).to_table().equals(buffer.to_table())


def test_cohorts_that_drifted_leave_with_all_older_ones() -> None:
    buffer = ReplayBuffer(Replay(admit="all", per_problem=9, drift_bound=5e-3))
    for round in (1, 2, 3, 4):
        buffer.admit(pa.Table.from_pylist(rows([[1.0, 0.0]], round), schema=ROLLOUTS), round)
    assert not buffer.evict(4, drift={1: 1e-4, 2: 5e-3, 3: 1e-4})
    gone = buffer.evict(4, drift={1: 1e-4, 2: 5e-3, 3: 1e-4}, max_drift=1e-3)
    assert gone == {1: {"drift": 2}, 2: {"drift": 2}}
    assert buffer.cohorts() == {3: 2, 4: 2}


def test_samples_are_distinct_rows_drawn_by_the_generator() -> None:
    buffer = ReplayBuffer(Replay(admit="all", per_problem=9))
    assert len(buffer) == 0
    buffer.admit(pa.Table.from_pylist(rows([[1.0, 0.0, 1.0, 0.5]], 1), schema=ROLLOUTS), 1)
    drawn = [
        buffer.sample(3, torch.Generator().manual_seed(s))["sample"].to_pylist() for s in (0, 0, 1, 2, 3)
    ]
    assert drawn[0] == drawn[1]
    assert len({tuple(d) for d in drawn}) > 1
    assert all(len(set(d)) == 3 for d in drawn)
    assert len(buffer.sample(99, torch.Generator().manual_seed(0))) == 4


def test_a_round_enters_once_and_under_its_own_number() -> None:
    buffer = ReplayBuffer(Replay(admit="all"))
    fresh = pa.Table.from_pylist(rows([[1.0, 0.0]], 3), schema=ROLLOUTS)
    with pytest.raises(ValueError, match="offered as round 4"):
        buffer.admit(fresh, 4)
    buffer.admit(fresh, 3)
    with pytest.raises(ValueError, match="already"):
        buffer.admit(fresh, 3)
