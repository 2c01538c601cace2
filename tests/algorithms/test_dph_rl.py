"""DPH-RL: which of the base's answers stay, and the constraint on them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms import dph_rl
from algorithms.dph_rl import Config
from params.base import BadInput, Choice
from tests.algorithms.replay_cases import FRESH, batch, chance, fresh, no_entropy, stored, values

COUNTS = st.lists(st.integers(0, 8), min_size=1, max_size=6)


@given(COUNTS, st.sampled_from([6, 8]))
def test_one_right_answer_to_each_mastered_problem_stays(counts: list[int], least: int) -> None:
    reward = torch.tensor([1.0 if i >= 8 - count else 0.0 for count in counts for i in range(8)])
    group = torch.arange(len(counts)).repeat_interleave(8)
    eligible = reward >= 1.0
    kept = dph_rl.admit(reward, group, eligible, 0, Config(least_right=least))
    assert [int(group[i]) for i in kept] == [i for i, count in enumerate(counts) if count >= least]
    assert all(reward[i] == 1.0 for i in kept)


def test_it_asks_the_base_as_often_as_it_says() -> None:
    assert dph_rl.base_answers(Config()) == 8
    with pytest.raises(BadInput, match="least_right must not exceed"):
        Choice(name="dph_rl", least_right=9).resolve(Config, "method.replay")


@given(st.floats(-5.0, 5.0))
def test_its_forms_are_the_released_ones_in_a_mean_over_tokens(x: float) -> None:
    ratio = math.exp(x)
    moved = batch().behaviour_logp + x
    low_variance = ratio * x - (ratio + 1) * math.log((ratio + 1) / 2)
    loss, metrics = values(dph_rl.term(batch(), Config()), moved)
    assert float(loss) == pytest.approx(0.2 * low_variance, rel=1e-5, abs=1e-8)
    assert set(metrics) == {"js", "js_doubled", "penalty"}
    loss, _ = values(dph_rl.term(batch(), Config(form="forward_kl", coefficient=0.01)), moved)
    assert float(loss) == pytest.approx(0.01 * (ratio - 1 - x), rel=1e-5, abs=1e-8)
    scale = dph_rl.term(batch(), Config(coefficient=1.0)).scale
    replayed = ~torch.tensor(FRESH)[batch().sequence]
    assert scale[replayed].tolist() == pytest.approx([1 / 9] * 9)


def test_it_draws_its_share_for_its_term_alone() -> None:
    buffer = stored([(f"p{i}", 1.0) for i in range(10)])
    found = dph_rl.draw(fresh(["a", "b", "c", "d"], samples=8), buffer, Config(), chance(), no_entropy)
    assert (found.rows.num_rows, found.into, found.anchor) == (4, "aside", "stored")
