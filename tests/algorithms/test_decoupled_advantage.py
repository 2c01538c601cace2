"""GDPO's advantage: each reward normalised within its group, summed by weight, and scaled over the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.advantages import decoupled_advantage, group_advantage

REWARDS = st.lists(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, float("nan")]), min_size=2, max_size=2), min_size=6, max_size=6
)
GROUP = torch.tensor([0, 0, 0, 1, 1, 1])


def oracle(rewards: np.ndarray, weights: list[float]) -> np.ndarray:
    """The equation in float64, loop by loop."""
    found = np.zeros(len(rewards))
    for k, weight in enumerate(weights):
        for group in (0, 1):
            rows = [i for i in range(6) if int(GROUP[i]) == group and not np.isnan(rewards[i, k])]
            values = rewards[rows, k]
            if len(set(values)) > 1:
                found[rows] += weight * (values - values.mean()) / values.std()
    spread = np.sqrt(np.mean(found**2))
    return found / spread if spread > 0 else found


@given(REWARDS, st.tuples(st.floats(0.1, 2.0), st.floats(-2.0, 2.0)))
def test_the_equation(drawn: list[list[float]], weights: tuple[float, float]) -> None:
    rewards = torch.tensor(drawn, dtype=torch.float64)
    found = decoupled_advantage(rewards, torch.tensor(weights, dtype=torch.float64), GROUP)
    assert torch.allclose(found.double(), torch.tensor(oracle(rewards.numpy(), list(weights))), atol=1e-5)


def test_sums_that_are_alike_stay_apart() -> None:
    """What the paper is about: one advantage by their sums, two by GDPO."""
    group = torch.tensor([0, 0, 1, 1])
    rewards = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    by_sum = group_advantage(rewards.sum(1), group)
    apart = decoupled_advantage(rewards, torch.ones(2), group)
    assert by_sum[1] == by_sum[3]
    assert apart[3] == pytest.approx(2 * float(apart[1]))


def test_equal_rewards_give_exact_zeros_and_shapes_are_checked() -> None:
    same = torch.full((6, 2), 0.3)
    assert torch.equal(decoupled_advantage(same, torch.ones(2), GROUP), torch.zeros(6))
    assert decoupled_advantage(torch.zeros(0, 2), torch.ones(2), torch.zeros(0, dtype=torch.int64)).shape == (
        0,
    )
    with pytest.raises(ValueError, match="must be"):
        decoupled_advantage(same, torch.ones(3), GROUP)
