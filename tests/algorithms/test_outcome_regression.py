"""Ours: the outcome regression's fixed point, its V*, and what its signal adds up to."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms import erpd
from algorithms.outcome_regression import log_partition
from algorithms.terms import Signals
from params.distil import Teacher
from tests.algorithms.answer_tree import (
    ANSWERS,
    DEPTH,
    FIRST,
    SEQUENCE,
    STATES,
    V,
    answers,
    batch_of,
    logits,
    rewards,
    tokens,
)


def partition(base: Tensor, reward: Tensor, beta: float) -> Tensor:
    """V* by its definition."""
    return beta * torch.logsumexp(answers(base) + reward / beta, 0)


def optimum(base: Tensor, reward: Tensor, beta: float) -> Tensor:
    """The policy pi_0 exp((r - V*) / beta), state by state: a word is as likely as what lies below it."""
    joint = (answers(base) + (reward - partition(base, reward, beta)) / beta).exp()
    rows = torch.zeros(len(STATES), V, dtype=torch.float64)
    for answer, mass in zip(ANSWERS, joint, strict=True):
        for depth in range(DEPTH):
            rows[STATES[answer[:depth]], answer[depth]] += mass
    return rows.log()


def expected(values: Tensor, base: Tensor) -> Tensor:
    """The mean over answers of the base, of a loss [T] that every token of an answer carries."""
    return (answers(base).exp() * values[FIRST]).sum()


@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0])
def test_the_squared_error_vanishes_at_its_closed_form_and_only_there(beta: float) -> None:
    base, reward = logits(0), rewards(1)
    target = (reward - partition(base, reward, beta))[SEQUENCE]
    best = optimum(base, reward, beta).requires_grad_(True)
    loss = expected(erpd.outcome_regression(tokens(best), tokens(base), target, SEQUENCE, beta)[0], base)
    (slope,) = torch.autograd.grad(loss, best)
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-20)
    assert float(slope.abs().max()) < 1e-10
    centred = (reward - (answers(base).exp() * reward).sum())[SEQUENCE]
    for other in (centred, target):
        elsewhere = erpd.outcome_regression(tokens(base), tokens(base), other, SEQUENCE, beta)[0]
        assert float(expected(elsewhere, base)) > 1e-4


def test_fitting_the_squared_error_leads_to_the_closed_form() -> None:
    base, reward, beta = logits(2), rewards(3), 1.0
    target = (reward - partition(base, reward, beta))[SEQUENCE]
    policy = base.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [policy], max_iter=500, tolerance_grad=1e-14, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = expected(
            erpd.outcome_regression(tokens(policy), tokens(base), target, SEQUENCE, beta)[0], base
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    found, wanted = policy.detach().softmax(-1), optimum(base, reward, beta).softmax(-1)
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("beta", [0.2, 1.0, 3.0])
def test_the_signal_telescopes_to_the_advantage_of_the_answer(beta: float) -> None:
    base, reward = logits(4), rewards(5)
    best = optimum(base, reward, beta)
    signal = beta * erpd.token_signal(tokens(best), tokens(base))
    told = signal.view(-1, DEPTH).sum(1)
    torch.testing.assert_close(told, reward - partition(base, reward, beta), rtol=0.0, atol=1e-12)
    root = beta * torch.logsumexp(answers(base) + reward / beta, 0)
    for word in range(V):  # Q* - V* of the first token, from their definitions
        below = torch.tensor([answer[0] == word for answer in ANSWERS])
        inside = answers(base)[below] - torch.logsumexp(answers(base)[below], 0)
        value = beta * torch.logsumexp(inside + reward[below] / beta, 0)
        assert float(signal[FIRST][below][0]) == pytest.approx(float(value - root), abs=1e-12)


def test_the_log_partition_of_binary_rewards() -> None:
    reward = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    group = torch.tensor([7, 7, 7, 7, 2, 2, 2, 2])
    for beta in (0.01, 0.3, 4.0):
        shares = torch.where(group == 7, 0.25, 0.5).double()
        wanted = beta * (shares * math.expm1(min(1 / beta, 700.0))).log1p()
        torch.testing.assert_close(log_partition(reward, group, beta), wanted)
    p, beta = 0.25, 200.0
    found = float(log_partition(reward, group, beta)[0])
    assert found == pytest.approx(p + p * (1 - p) / (2 * beta), abs=1 / beta**2)


def test_a_small_beta_leads_to_the_base_given_that_it_is_right() -> None:
    base, reward = logits(6), rewards(7)
    share = (answers(base).exp() * reward).sum()
    best = answers(optimum(base, reward, 0.01)).exp()
    torch.testing.assert_close(best, answers(base).exp() * reward / share, rtol=0.0, atol=1e-12)
    right = reward > 0
    divergence = (best[right] * (best[right].log() - answers(base)[right])).sum()
    assert float(divergence) == pytest.approx(-math.log(float(share)), abs=1e-9)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=2, max_size=8),
    right=st.lists(st.booleans(), min_size=8, max_size=8),
    beta=st.floats(0.05, 20.0),
)
def test_with_a_beta_a_response_the_partition_still_makes_the_mean_one(
    lengths: list[int], right: list[bool], beta: float
) -> None:
    reward = torch.tensor(right[: len(lengths)]).double()
    scale = beta / torch.tensor(lengths).double()
    found = log_partition(reward, torch.zeros(len(lengths), dtype=torch.int64), scale)
    assert float(torch.logsumexp((reward - found) / scale, 0)) == pytest.approx(
        math.log(len(lengths)), abs=1e-9
    )


@pytest.mark.parametrize("target", ["log_partition", "centred", "advantage"])
def test_what_is_taken_from_the_reward(target: str) -> None:
    reward, group = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 0, 0])
    batch = batch_of(reward, group, [1, 2, 3])
    config = Teacher.model_validate({"loss": "outcome_regression", "beta": 1.0, "target": target})
    (term,) = erpd.teacher_terms(batch, torch.zeros(6), config, True)
    loss = term.token_loss(Signals(torch.zeros(6)), torch.arange(6))[0]  # at the base s is 0
    taken = math.log((math.e + 2.0) / 3.0) if target == "log_partition" else 1.0 / 3.0
    unit = float(reward.std(correction=0)) if target == "advantage" else 1.0
    wanted = (((reward - taken) / unit) ** 2).repeat_interleave(torch.tensor([1, 2, 3]))
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-4)
