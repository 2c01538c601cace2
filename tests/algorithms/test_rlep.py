"""RLEP: what joins a group, and the advantages that follow."""

from __future__ import annotations

import math

import pytest
import torch

from algorithms import rlep
from algorithms.advantages import group_advantage
from algorithms.rlep import Config
from tests.algorithms.replay_cases import chance, fresh, no_entropy, stored

POOL = stored([("a", 1.0), ("a", 0.0), ("a", 1.0), ("a", 1.0), ("b", 1.0), ("c", 0.5), ("z", 1.0)])


def test_random_successes_join_their_problems_group() -> None:
    picked = set()
    for seed in range(60):
        drawn = rlep.draw(fresh(["b", "c", "a"]), POOL, Config(), chance(seed), no_entropy)
        assert (drawn.into, drawn.anchor) == ("objective", "current")
        assert drawn.group.tolist() == [0, 2, 2]
        assert drawn.rows["problem_id"].to_pylist() == ["b", "a", "a"]
        assert set(drawn.rows["reward"].to_pylist()) == {1.0}
        picked.add(frozenset(drawn.rows["sample"].to_pylist()[1:]))
    assert picked == {frozenset(pair) for pair in ((0, 2), (0, 3), (2, 3))}


def test_an_unknown_problem_gets_nothing() -> None:
    drawn = rlep.draw(fresh(["y"]), POOL, Config(), chance(), no_entropy)
    assert drawn.rows.num_rows == len(drawn.group) == 0


def test_sixteen_wrong_answers_and_two_replayed_ones() -> None:
    rewards = torch.tensor([0.0] * 16 + [1.0] * 2, dtype=torch.float64)
    found = group_advantage(rewards, torch.zeros(18, dtype=torch.int64))
    assert found[:16].tolist() == pytest.approx([-math.sqrt(2 / 16)] * 16)
    assert found[16:].tolist() == pytest.approx([math.sqrt(16 / 2)] * 2)
    assert found[[0, 16]].tolist() == pytest.approx([-0.35355, 2.82843], abs=5e-6)
    assert not group_advantage(torch.ones(18).double(), torch.zeros(18, dtype=torch.int64)).any()
