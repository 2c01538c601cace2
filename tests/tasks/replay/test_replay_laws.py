"""Laws of the replay buffer, whatever its rules: the real stage on answers that a real model gave."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.replay_buffer import ReplayBuffer
from params.schema import Replay
from tasks.artefacts.artefact import Artefact, write_json
from tasks.artefacts.tables import REPLAY, read_table
from tasks.replay.replay import opened, replay
from tests.conftest import as_artefact
from tests.tasks.conftest import ROUNDS, Nano, nano_parameters

RULES = st.builds(
    Replay,
    admit=st.sampled_from(["correct", "correct_unless_all", "all", "none"]),
    per_problem=st.none() | st.integers(1, 4),
    per_round=st.none() | st.integers(1, 8),
    distinct=st.booleans(),
    start_above=st.sampled_from([0.0, 0.2, 0.9]),
    retire=st.booleans(),
    max_age=st.integers(1, 3),
    capacity=st.integers(1, 20),
)


def snapshots(nano: Nano, rules: Replay) -> list[Artefact]:
    params = nano_parameters().model_copy(update={"replay": rules})
    made: list[Artefact] = []
    for round, fresh in enumerate(nano.rollouts, start=1):
        made.append(nano.run(replay, params, round, rollout=fresh, replay=made[-1] if made else None))
    return made


def rows(artefact: Artefact) -> list[dict[str, Any]]:
    return read_table(artefact.file("buffer.parquet")).to_pylist()


def test_the_answers_are_worth_replaying(nano: Nano) -> None:
    solved = [made.json("metrics.json")["solved"] for made in nano.rollouts]
    assert 0.05 < sum(solved) / ROUNDS < 0.9
    assert len(solved) == ROUNDS


@given(RULES)
@settings(max_examples=25, deadline=None)
def test_laws_of_every_snapshot(nano: Nano, rules: Replay) -> None:
    offered = {
        (row["round"], row["group"], row["sample"]): row
        for made in nano.rollouts
        for row in read_table(made.file("rollouts.parquet")).to_pylist()
    }
    before = 0
    for round, made in enumerate(snapshots(nano, rules), start=1):
        held, said = rows(made), made.json("metrics.json")
        dropped = sum(sum(cohort["dropped"].values()) for cohort in said["cohorts"].values())
        assert len(held) == said["rows"] == before + said["admitted"] - dropped
        assert said["offered"] == said["admitted"] + sum(said["refused"].values())
        before = len(held)
        assert len(held) <= rules.capacity
        assert all(round - row["round"] <= rules.max_age for row in held)
        assert [row["round"] for row in held] == sorted(row["round"] for row in held)
        for row in held:
            origin = offered[row["round"], row["group"], row["sample"]]
            assert {name: row[name] for name in origin} == origin
        assert bool(held) <= (rules.admit != "none")


@given(RULES)
@settings(max_examples=15, deadline=None)
def test_no_cohort_exceeds_what_the_rules_allow(nano: Nano, rules: Replay) -> None:
    held = rows(snapshots(nano, rules)[-1])
    problems = Counter((row["round"], row["problem_id"]) for row in held)
    assert max(problems.values(), default=0) <= (rules.per_problem or math.inf)
    rounds = Counter(row["round"] for row in held)
    assert max(rounds.values(), default=0) <= (rules.per_round or math.inf)
    answers = [(row["problem_id"], tuple(row["response_ids"])) for row in held]
    if rules.distinct:
        assert len(set(answers)) == len(answers)
    if rules.admit != "all":
        assert all(row["reward"] == 1.0 for row in held)
    if rules.admit == "correct_unless_all":
        assert all(row["group_accuracy"] < 1.0 for row in held)


@given(RULES)
@settings(max_examples=15, deadline=None)
def test_the_oldest_leave_first_and_every_leaving_has_a_reason(nano: Nano, rules: Replay) -> None:
    made = snapshots(nano, rules)
    for round, (before, after) in enumerate(itertools.pairwise(made), start=2):
        held, cohorts = rows(after), after.json("metrics.json")["cohorts"]
        for born, cohort in cohorts.items():
            assert (cohort["kept_as"] is None) == (cohort["kept"] == 0)
            assert cohort["age"] == round - int(born)
            if "capacity" in cohort["dropped"]:
                assert not [row for row in held if row["round"] < int(born)]
            if "age" in cohort["dropped"]:
                assert cohort["age"] > rules.max_age
        kept = {(row["round"], row["group"], row["sample"]) for row in held}
        gone = Counter(
            str(row["round"])
            for row in rows(before)
            if (row["round"], row["group"], row["sample"]) not in kept
        )
        for born, count in gone.items():
            assert sum(cohorts[born]["dropped"].values()) >= count


@given(RULES)
@settings(max_examples=10, deadline=None)
def test_a_snapshot_reads_back_as_it_was_and_is_made_with_the_same_bytes(nano: Nano, rules: Replay) -> None:
    made, again = (snapshots(nano, rules)[-1] for _ in range(2))
    assert made.digest == again.digest
    buffer = opened(made, rules)
    assert buffer.to_table().schema.equals(REPLAY)
    copy = ReplayBuffer(rules, buffer.to_table(), buffer.results, buffer.started)
    assert copy.to_table().equals(buffer.to_table())
    assert copy.cohorts() == buffer.cohorts()
    assert buffer.results.equals(read_table(made.file("results.parquet")))
    assert buffer.started == made.json("state.json")["started"]


def test_a_known_answer_does_not_enter_again(nano: Nano) -> None:
    rules = Replay(admit="all", per_problem=4, max_age=9)
    every, once = (
        snapshots(nano, rules.model_copy(update={"distinct": distinct})) for distinct in (False, True)
    )
    answers = [(row["problem_id"], tuple(row["response_ids"])) for row in rows(every[-1])]
    first = list(dict.fromkeys(answers))
    assert len(first) < len(answers)
    assert [(row["problem_id"], tuple(row["response_ids"])) for row in rows(once[-1])] == first
    assert once[-1].json("metrics.json")["refused"]["known"] > 0


@pytest.mark.parametrize("together", [False, True])
def test_samples_are_uniform_and_seeded(nano: Nano, together: bool) -> None:
    buffer = opened(snapshots(nano, Replay(admit="all", per_problem=3, max_age=3, capacity=20))[-1])
    keys = {json.dumps(row, sort_keys=True): 0 for row in buffer.to_table().to_pylist()}
    assert len(keys) == len(buffer) == 20
    for seed in range(500):
        drawn = buffer.sample(5, torch.Generator().manual_seed(seed), together)
        assert drawn.num_rows == 5
        for row in drawn.to_pylist():
            keys[json.dumps(row, sort_keys=True)] += 1
    assert sum(keys.values()) == 2500
    assert all(abs(count - 125) < 5 * math.sqrt(500 * 0.25 * 0.75) for count in keys.values())
    one, two = (buffer.sample(5, torch.Generator().manual_seed(7), together) for _ in range(2))
    assert one.equals(two)


def test_rows_drawn_together_share_their_problems(nano: Nano) -> None:
    buffer = opened(snapshots(nano, Replay(admit="all", per_problem=3, max_age=3, capacity=20))[-1])
    held = buffer.to_table()["problem_id"].to_pylist()
    most = max(held.count(problem) for problem in held)
    assert most > 1
    for seed in range(50):
        drawn = buffer.sample(6, torch.Generator().manual_seed(seed), together=True)["problem_id"].to_pylist()
        runs = [problem for problem, _ in itertools.groupby(drawn)]
        whole = [problem for problem in set(drawn) if drawn.count(problem) == held.count(problem)]
        assert len(set(runs)) >= len(runs) - 1  # only the problem at which the circle is cut can come twice
        assert len(set(drawn) - set(whole)) <= 2


def test_nothing_enters_before_enough_is_solved(nano: Nano) -> None:
    solved = [made.json("metrics.json")["solved"] for made in nano.rollouts]
    best = max(solved)
    never = snapshots(nano, Replay(admit="correct", start_above=best))
    assert [made.json("metrics.json")["rows"] for made in never] == [0] * ROUNDS
    assert never[-1].json("state.json")["started"] is None
    first = solved.index(best) + 1
    later = snapshots(nano, Replay(admit="correct", start_above=best - 1e-6))
    assert [made.json("state.json")["started"] for made in later] == [None] * (first - 1) + [first] * (
        ROUNDS - first + 1
    )


def test_the_last_result_of_each_problem_is_known(nano: Nano) -> None:
    made = snapshots(nano, Replay(admit="correct", per_problem=4, retire=True))[-1]
    last: dict[str, tuple[int, int, int]] = {}
    for round, fresh in enumerate(nano.rollouts, start=1):
        groups: dict[str, list[float]] = {}
        for row in read_table(fresh.file("rollouts.parquet")).to_pylist():
            groups.setdefault(row["problem_id"], []).append(row["reward"])
        last |= {p: (sum(r == 1.0 for r in rewards), len(rewards), round) for p, rewards in groups.items()}
    found = read_table(made.file("results.parquet")).to_pylist()
    assert {row["problem_id"]: (row["correct"], row["samples"], row["round"]) for row in found} == last
    solved = {problem for problem, (correct, samples, _) in last.items() if correct == samples}
    assert not solved & {row["problem_id"] for row in rows(made)}
    assert made.json("metrics.json")["retired"] == len(solved)


def told(folder: Any, **metrics: Any) -> Artefact:
    """An update that says no more than its metrics."""
    folder.mkdir()
    write_json(folder / "metrics.json", metrics)
    return as_artefact(folder, "update")


def test_cohorts_that_drifted_leave(nano: Nano, tmp_path: Any) -> None:
    rules = Replay(admit="all", sizing="drift", drift_bound=1e-3, max_age=9)
    params = nano_parameters().model_copy(update={"replay": rules})
    made = snapshots(nano, rules)[-2]
    said = told(tmp_path / "u", drift_by_age={"1": 4e-4, "2": 2e-3, "3": None})
    after = nano.run(replay, params, 4, rollout=nano.rollouts[3], replay=made, update=said)
    cohorts = after.json("metrics.json")["cohorts"]
    assert cohorts["1"]["dropped"] == {"drift": 32}
    assert (cohorts["1"]["drift"], cohorts["2"]["drift"]) == (2e-3, 4e-4)
    assert cohorts["2"]["kept_as"] == "age 2 of at most 9, drift 0.0004 of at most 0.001"
    assert cohorts["4"]["kept_as"] == "age 0 of at most 9, drift not measured"
    assert {row["round"] for row in rows(after)} == {2, 3, 4}


@pytest.mark.parametrize(("entropy", "admitted"), [(1.0, 4), (0.6, 3), (1.7, 7), (0.0, 0)])
def test_admissions_follow_the_entropy(nano: Nano, tmp_path: Any, entropy: float, admitted: int) -> None:
    rules = Replay(admit="all", per_problem=4, per_round=4, sizing="entropy")
    params = nano_parameters().model_copy(update={"replay": rules})
    first = nano.run(replay, params, 1, rollout=nano.rollouts[0])
    assert first.json("metrics.json")["admitted"] == 4
    second = nano.run(
        replay, params, 2, rollout=nano.rollouts[1], replay=first, update=told(tmp_path / "a", entropy=1.0)
    )
    assert second.json("state.json")["reference_entropy"] == 1.0
    said = told(tmp_path / "b", entropy=entropy)
    third = nano.run(replay, params, 3, rollout=nano.rollouts[2], replay=second, update=said)
    assert third.json("metrics.json")["admitted"] == admitted
    assert third.json("state.json")["reference_entropy"] == 1.0
    idle = nano.run(
        replay, params, 3, rollout=nano.rollouts[2], replay=second, update=told(tmp_path / "c", entropy=None)
    )
    assert idle.json("metrics.json")["admitted"] == 4
