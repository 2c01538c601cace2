"""The geometric mean of two distributions under a budget: the exact optimum, monotone, with its ends."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms.erpd import geometric_target
from algorithms.geometric import divergences, eta_of


def rows(seed: int, spread: float = 2.0, states: int = 4, words: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(states, words, generator=generator, dtype=torch.float64)


def kl(logp: Tensor, logq: Tensor) -> Tensor:
    logp, logq = logp.log_softmax(-1), logq.log_softmax(-1)
    parts = torch.where(logp.isinf(), torch.zeros_like(logp), logp.exp() * (logp - logq))
    return parts.sum(-1)


@given(seed=st.integers(0, 10_000), budget=st.floats(1e-8, 3.0), spread=st.floats(0.05, 8.0))
def test_the_budget_is_spent_exactly_or_the_teacher_is_reached(
    seed: int, budget: float, spread: float
) -> None:
    base, teacher = rows(seed), rows(seed + 1, spread)
    found, eta = geometric_target(base, teacher, budget)
    reach = kl(teacher, base)
    torch.testing.assert_close(
        kl(found, base), torch.minimum(reach, torch.full_like(reach, budget)), rtol=1e-8, atol=1e-11
    )
    whole = reach < budget
    assert torch.equal(eta[whole], torch.ones_like(eta[whole]))
    torch.testing.assert_close(found[whole], teacher.log_softmax(-1)[whole])
    torch.testing.assert_close(found.exp().sum(-1), torch.ones_like(eta))
    mean = ((1 - eta)[:, None] * base.log_softmax(-1) + eta[:, None] * teacher.log_softmax(-1)).log_softmax(
        -1
    )
    torch.testing.assert_close(found, mean, rtol=0.0, atol=1e-9)


@given(seed=st.integers(0, 10_000), mu=st.floats(0.05, 20.0))
def test_it_minimises_the_two_divergences_and_the_minimum_is_known(seed: int, mu: float) -> None:
    base, teacher = rows(seed), rows(seed + 1)
    eta = 1 / (1 + mu)
    best = ((1 - eta) * base.log_softmax(-1) + eta * teacher.log_softmax(-1)).log_softmax(-1)
    at = kl(best, teacher) + mu * kl(best, base)
    norm = torch.logsumexp((1 - eta) * base.log_softmax(-1) + eta * teacher.log_softmax(-1), -1)
    torch.testing.assert_close(at, -(1 + mu) * norm)
    for step in (1e-3, 0.3):
        other = best + step * rows(seed + 2)
        assert bool((kl(other, teacher) + mu * kl(other, base) >= at - 1e-12).all())
    found, again = geometric_target(base, teacher, kl(best, base))
    torch.testing.assert_close(found, best, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(again, torch.full_like(again, eta), rtol=1e-6, atol=1e-9)


@given(seed=st.integers(0, 10_000))
def test_the_divergence_rises_by_eta_times_the_variance(seed: int) -> None:
    base, teacher = rows(seed), rows(seed + 1)
    etas = [0.0, 0.2, 0.5, 0.9, 1.0]
    found = divergences(base, teacher, etas)
    assert bool((found.diff(dim=-1) > 0).all())
    torch.testing.assert_close(found[:, 0], torch.zeros(len(base)).double())
    torch.testing.assert_close(found[:, -1], kl(teacher, base))
    step, slope = 1e-5, teacher.log_softmax(-1) - base.log_softmax(-1)
    for eta in (0.2, 0.5, 0.9):
        low, high = divergences(base, teacher, [eta - step, eta + step]).unbind(-1)
        weight = (base.log_softmax(-1) + eta * slope).softmax(-1)
        mean = (weight * slope).sum(-1, keepdim=True)
        variance = (weight * (slope - mean).square()).sum(-1)
        torch.testing.assert_close((high - low) / (2 * step), eta * variance, rtol=1e-5, atol=1e-8)


def test_the_ends() -> None:
    base, teacher = rows(0), rows(1)
    found, eta = geometric_target(base, teacher, 0.0)
    assert torch.equal(eta, torch.zeros_like(eta))
    torch.testing.assert_close(found, base.log_softmax(-1))
    found, eta = geometric_target(base, teacher, math.inf)
    assert torch.equal(eta, torch.ones_like(eta))
    torch.testing.assert_close(found, teacher.log_softmax(-1))
    found, _ = geometric_target(base, base + 3.0, 0.5)
    torch.testing.assert_close(found, base.log_softmax(-1))
    beyond, eta = geometric_target(base, teacher, math.inf, most=1.5)
    torch.testing.assert_close(
        beyond, (1.5 * teacher.log_softmax(-1) - 0.5 * base.log_softmax(-1)).log_softmax(-1)
    )
    assert eta.tolist() == [1.5] * 4


def test_a_budget_a_state_and_float32_logits() -> None:
    base, teacher = rows(2).float(), rows(3).float()
    budget = torch.tensor([0.0, 0.01, 0.2, 50.0])
    found, eta = geometric_target(base, teacher, budget)
    assert found.dtype == eta.dtype == torch.float32
    wanted = torch.minimum(budget, kl(teacher, base))
    torch.testing.assert_close(kl(found, base), wanted, rtol=1e-4, atol=1e-6)


def test_words_that_one_side_excludes() -> None:
    base, teacher = rows(4), rows(5)
    base[0, 2] = teacher[1, 3] = -math.inf
    found, eta = geometric_target(base, teacher, 1e-3)
    assert float(found[0, 2]) == -math.inf
    assert 0.0 < float(eta[0]) < 1.0
    torch.testing.assert_close(found[1], base[1].log_softmax(-1))  # without word 3, further than the budget
    assert float(eta[1]) == 0.0
    found, eta = geometric_target(base, teacher, 100.0)
    assert float(found[0, 2]) == -math.inf
    torch.testing.assert_close(found[1], teacher[1].log_softmax(-1))
    assert not bool(found.isnan().any())


def test_a_budget_below_zero_is_refused() -> None:
    for budget in (-1e-9, math.nan):
        with pytest.raises(ValueError, match="budget"):
            geometric_target(rows(0), rows(1), budget)


def test_one_eta_for_a_mean_budget() -> None:
    base, teacher = rows(6, states=50), rows(7, states=50)
    etas = [(place / 16) ** 2 for place in range(17)]
    curve = divergences(base, teacher, etas).mean(0).tolist()
    for budget in (0.003, 0.1, 0.7):
        eta = eta_of(etas, curve, budget)
        assert float(divergences(base, teacher, [eta]).mean()) == pytest.approx(budget, rel=0.01)
    assert eta_of(etas, curve, 100.0) == 1.0
    assert eta_of(etas, curve, 0.0) == 0.0
