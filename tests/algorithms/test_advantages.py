"""Advantages against their definition, and where they must be exactly zero."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.advantages import group_advantage, overlong_penalty

REWARDS = st.lists(st.tuples(st.integers(0, 4), st.floats(-10, 10, width=32)), min_size=1, max_size=30)


@pytest.mark.parametrize(("right", "wrong"), [(1, 7), (2, 16), (4, 4)])
def test_a_binary_group_has_the_closed_form(right: int, wrong: int) -> None:
    p = right / (right + wrong)
    rewards = torch.tensor([1.0] * right + [0.0] * wrong, dtype=torch.float64)
    found = group_advantage(rewards, torch.zeros(right + wrong, dtype=torch.int64))
    assert found[0] == pytest.approx(math.sqrt((1 - p) / p), abs=1e-12)
    assert found[-1] == pytest.approx(-math.sqrt(p / (1 - p)), abs=1e-12)


@given(REWARDS, st.booleans())
def test_each_group_is_centred_and_constant_groups_are_exactly_zero(
    rows: list[tuple[int, float]], scaled: bool
) -> None:
    group = torch.tensor([g for g, _ in rows])
    rewards = torch.tensor([r for _, r in rows], dtype=torch.float64)
    found = group_advantage(rewards, group, scaled)
    for g in group.unique():
        inside, values = found[group == g], rewards[group == g]
        if values.min() == values.max():
            assert bool((inside == 0).all())
        elif scaled:
            assert float(inside.square().mean()) == pytest.approx(1.0)
        assert float(inside.sum()) == pytest.approx(0.0, abs=1e-9)


@given(REWARDS)
def test_the_order_of_responses_does_not_matter(rows: list[tuple[int, float]]) -> None:
    group = torch.tensor([g for g, _ in rows])
    rewards = torch.tensor([r for _, r in rows])
    back = group_advantage(rewards.flip(0), group.flip(0)).flip(0)
    torch.testing.assert_close(group_advantage(rewards, group), back)


def test_equal_rewards_that_float_cannot_hold_are_still_zero() -> None:
    rewards = torch.full((7,), 0.1)
    assert bool((group_advantage(rewards, torch.zeros(7, dtype=torch.int64)) == 0).all())


@pytest.mark.parametrize("count", [1, 2, 8, 16])
def test_beside_a_virtual_best_answer_a_group_that_is_all_wrong_is_pushed_down(count: int) -> None:
    group = torch.zeros(count, dtype=torch.int64)
    wrong = group_advantage(torch.zeros(count, dtype=torch.float64), group, virtual=1.0)
    assert wrong.tolist() == pytest.approx([-1 / math.sqrt(count)] * count, abs=1e-12)
    assert group_advantage(torch.ones(count), group, virtual=1.0).tolist() == [0.0] * count


@given(REWARDS, st.booleans(), st.floats(-10, 10, width=32))
def test_a_virtual_answer_is_one_more_of_each_group(
    rows: list[tuple[int, float]], scaled: bool, virtual: float
) -> None:
    group = torch.tensor([g for g, _ in rows])
    rewards = torch.tensor([r for _, r in rows], dtype=torch.float64)
    found = group_advantage(rewards, group, scaled, virtual)
    names = group.unique()
    more = torch.full((len(names),), virtual, dtype=torch.float64)
    whole = group_advantage(torch.cat([rewards, more]), torch.cat([group, names]), scaled)
    torch.testing.assert_close(found, whole[: len(rows)], rtol=0, atol=0)


def test_bad_rewards_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        group_advantage(torch.tensor([0.0, math.nan]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="one"):
        group_advantage(torch.zeros(3), torch.zeros(2, dtype=torch.int64))


def test_overlong_penalty_is_the_papers() -> None:
    lengths = torch.tensor([1, 16384, 18432, 20480, 30000])
    assert overlong_penalty(lengths, 20480, 4096).tolist() == [0.0, 0.0, -0.5, -1.0, -1.0]
    with pytest.raises(ValueError, match="cache_length"):
        overlong_penalty(lengths, 100, 0)
