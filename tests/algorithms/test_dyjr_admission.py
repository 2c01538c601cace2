"""Who enters DyJR's buffer: the fill rate's schedule, and confidence-stratified descending admission."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms import dyjr, rlep_dynamic
from algorithms.drawing import reached
from algorithms.dyjr import Config
from params.base import BadInput

GROUPS = st.lists(st.lists(st.sampled_from([0.0, 1.0, math.nan]), min_size=1, max_size=8), max_size=8)
RATES = st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 0.05, 0.2, 0.25, 0.5, 1.0]))


def laid_out(groups: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards [S] and groups [S]."""
    reward = torch.tensor([value for group in groups for value in group], dtype=torch.float64)
    lengths = torch.tensor([len(group) for group in groups], dtype=torch.int64)
    return reward, torch.arange(len(groups)).repeat_interleave(lengths)


def group_of(right: int, of: int = 8) -> list[float]:
    return [1.0] * right + [0.0] * (of - right)


def test_the_schedule_is_the_papers() -> None:
    rates = [dyjr.fill_rate(step, Config()) for step in range(1, 301)]
    assert rates == [0.2] * 20 + [0.05] * 280
    assert dyjr.fill_rate(1, Config(warm_up_steps=0)) == 0.05


def test_the_surest_groups_enter_first_and_a_lower_one_fills_what_is_left() -> None:
    reward, group = laid_out([group_of(8), group_of(3), group_of(1)])
    entered = dyjr.admission(reward, group, 9 / 24)
    assert [group[i].item() for i in entered] == [0] * 8 + [1]
    assert sorted(entered[:8]) == list(range(8))


def test_the_count_is_the_first_that_reaches_the_bound() -> None:
    """N = 32 and a rate of 20 % are a bound of 6.4: seven enter."""
    reward, group = laid_out([group_of(8)] * 4)
    assert len(dyjr.admission(reward, group, 0.2)) == 7
    wide = laid_out([group_of(8)] * 20)
    assert len(dyjr.admission(*wide, 0.05)) == 8  # 0.05 * 160 is 8 and not a hair more
    assert len(dyjr.admission(*laid_out([group_of(8)] * 35), 0.1)) == 28


def test_within_a_stratum_every_query_comes_before_any_comes_twice() -> None:
    reward, group = laid_out([group_of(2), group_of(2), group_of(2)])
    entered = dyjr.admission(reward, group, 4 / 24)
    assert entered == [0, 8, 16, 1]


def test_who_may_not_enter_still_counts_for_the_confidence() -> None:
    reward, group = laid_out([group_of(3), group_of(2)])
    eligible = torch.ones(16, dtype=torch.bool)
    eligible[[0, 1]] = False
    assert dyjr.admission(reward, group, 1.0, eligible) == [2, 8, 9]


@given(GROUPS, RATES)
def test_laws(groups: list[list[float]], rate: float) -> None:
    reward, group = laid_out(groups)
    entered = dyjr.admission(reward, group, rate)
    right = [i for i, value in enumerate(reward.tolist()) if value == 1.0]
    confidence = [sum(value == 1.0 for value in given) for given in groups]
    strata = [confidence[int(group[i])] for i in entered]
    assert len(set(entered)) == len(entered)
    assert set(entered) <= set(right)
    assert all(upper >= lower for upper, lower in pairwise(strata))
    left_out = [confidence[int(group[i])] for i in right if i not in entered]
    assert not entered or not left_out or min(strata) >= max(left_out)
    wanted = rate * len(reward)
    reached = len(entered) >= wanted - 1e-6
    assert reached or len(entered) == len(right)
    assert not entered or len(entered) - 1 < wanted


@given(GROUPS, RATES)
def test_rlep_on_the_buffer_fills_it_alike(groups: list[list[float]], rate: float) -> None:
    reward, group = laid_out(groups)
    eligible = torch.ones(len(reward), dtype=torch.bool)
    ours = rlep_dynamic.admit(reward, group, eligible, 3, rlep_dynamic.Config(warm_up_fill=rate))
    assert ours == dyjr.admit(reward, group, eligible, 3, Config(warm_up_fill=rate))
    assert ours == dyjr.admission(reward, group, rate)


@given(st.integers(0, 10_000), st.integers(0, 1000))
def test_a_share_is_reached_by_the_least_count(count: int, thousandths: int) -> None:
    found = reached(thousandths / 1000, count)
    assert 1000 * (found - 1) < thousandths * count <= 1000 * found


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_mean_reward_that_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(BadInput, match=r"rlep_dynamic: .* expected rewards of 0 and 1"):
        rlep_dynamic.birth_advantage(torch.tensor([0.5, share]))


@pytest.mark.parametrize(("share", "advantage"), [(1.0, 0.0), (0.5, 1.0), (0.125, math.sqrt(7.0))])
def test_a_replayed_answer_has_the_advantage_of_its_birth(share: float, advantage: float) -> None:
    found = rlep_dynamic.birth_advantage(torch.tensor([share]))
    assert found.tolist() == pytest.approx([advantage])
