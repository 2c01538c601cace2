"""LUFFY: the shaping weight, which demonstrations join which group, and the gradient of their tokens."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms import luffy
from algorithms.advantages import group_advantage
from algorithms.luffy import Config, shaped
from algorithms.replay_buffer import ReplayBuffer
from algorithms.terms import aggregation_scale
from tests.algorithms.replay_cases import FRESH, batch, chance, fresh, no_entropy, slope, values

LOGP = torch.linspace(-4.0, -0.01, 15, dtype=torch.float64)
JOINED = torch.tensor([True, True, True, True, False])


def weight(logp: torch.Tensor, gamma: float) -> torch.Tensor:
    """d f(pi) / d log pi by autograd, float64."""
    moving = logp.double().requires_grad_(True)
    (found,) = torch.autograd.grad(shaped(moving, gamma).sum(), moving)
    return found


@pytest.mark.parametrize("gamma", [0.01, 0.1, 0.5])
def test_the_shaping_weight(gamma: float) -> None:
    pi = torch.tensor([1e-6, 0.01, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    assert shaped(pi.log(), gamma).tolist() == pytest.approx((pi / (pi + gamma)).tolist())
    assert weight(pi.log(), gamma).tolist() == pytest.approx((pi * gamma / (pi + gamma) ** 2).tolist())
    grid = torch.linspace(-12.0, 0.0, 4001, dtype=torch.float64)
    found = weight(grid, gamma)
    assert float(found.max()) <= 0.25
    assert float(grid.detach()[found.argmax()]) == pytest.approx(math.log(gamma), abs=0.01)
    assert float(weight(torch.tensor([math.log(gamma)]), gamma)) == pytest.approx(0.25)


@given(st.floats(-5000.0, 0.0), st.floats(1e-6, 10.0))
def test_it_is_stable_for_any_probability(logp: float, gamma: float) -> None:
    moving = torch.tensor([logp], requires_grad=True)
    found = shaped(moving, gamma)
    (slopes,) = torch.autograd.grad(found.sum(), moving)
    assert bool(found.isfinite().all() and slopes.isfinite().all())
    assert 0.0 <= float(found.detach()) <= 1.0


def test_at_the_logits_the_gradient_is_the_weight_times_the_likelihoods() -> None:
    logits = torch.randn(6, 9, dtype=torch.float64, generator=chance()).requires_grad_(True)
    ids = torch.tensor([0, 3, 8, 8, 2, 5])
    logp = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    (found,) = torch.autograd.grad(shaped(logp).sum(), logits)
    pi = logits.detach().softmax(-1)
    onehot = torch.nn.functional.one_hot(ids, 9)
    chosen = pi.gather(-1, ids[:, None])
    torch.testing.assert_close(found, chosen * 0.1 / (chosen + 0.1) ** 2 * (onehot - pi))


@pytest.mark.parametrize("how", ["constant", "token_mean", "sequence_mean"])
def test_the_term_pulls_demonstrations_by_their_weight_over_the_joint_denominator(how: str) -> None:
    given_ = batch(counted=JOINED, objective=torch.tensor(FRESH), aggregation=how)
    term = luffy.term(given_, Config())
    scale = aggregation_scale(given_.sequence, JOINED[given_.sequence], how, 10).double()  # type: ignore[arg-type]
    mine = given_.sequence == 2
    expected = torch.where(mine, -scale * 0.7 * weight(LOGP, 0.1), torch.zeros_like(scale))
    torch.testing.assert_close(slope(term, LOGP), expected, atol=1e-7, rtol=1e-6)
    assert bool((term.scale[~mine] == 0).all())
    _, metrics = values(term, LOGP)
    torch.testing.assert_close(metrics["weight"], weight(LOGP, 0.1))
    torch.testing.assert_close(metrics["probability"], LOGP.exp())


def test_a_group_that_is_all_right_teaches_nothing() -> None:
    given_ = batch(counted=JOINED, objective=torch.tensor(FRESH), advantage=torch.zeros(15))
    assert not bool(luffy.term(given_, Config()).scale.any())


def test_advantages_are_over_the_joint_group() -> None:
    rewards = torch.tensor([0.0] * 7 + [1.0])
    found = group_advantage(rewards, torch.zeros(8, dtype=torch.int64), scale_by_std=False)
    assert found.tolist() == pytest.approx([-1 / 8] * 7 + [7 / 8])


def shown(counts: dict[str, int]) -> ReplayBuffer:
    rows = [(name, place) for name, count in counts.items() for place in range(count)]
    return ReplayBuffer(table=pa.table({"problem_id": [r[0] for r in rows], "sample": [r[1] for r in rows]}))


def test_each_group_is_joined_by_one_of_its_own_demonstrations_drawn_anew() -> None:
    buffer, seen = shown({"a": 1, "b": 3, "z": 2}), Counter[int]()
    for seed in range(600):
        drawn = luffy.draw(fresh(["b", "c", "a"]), buffer, Config(), chance(seed), no_entropy)
        assert drawn.rows["problem_id"].to_pylist() == ["b", "a"]
        assert drawn.group.tolist() == [0, 2]
        assert (drawn.into, drawn.anchor) == ("denominator", "stored")
        seen[drawn.rows["sample"].to_pylist()[0]] += 1
    assert all(abs(seen[place] - 200) < 60 for place in range(3))
    several = luffy.draw(fresh(["b", "a"]), buffer, Config(demonstrations=2), chance(), no_entropy)
    assert several.group.tolist() == [0, 0, 1]


def test_the_term_is_off_where_nothing_joined() -> None:
    alone = dataclasses.replace(batch(), objective=None)
    assert not bool(luffy.term(alone, Config()).scale.any())
