"""The clipped surrogate: its value, its gradient, and where it stops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from algorithms.grpo import Config, token_loss

CONFIG = Config(clip_low=0.2, clip_high=0.28)


def loss_and_slope(ratio: float, advantage: float, config: Config = CONFIG) -> tuple[float, float]:
    behaviour = torch.tensor([-1.5], dtype=torch.float64)
    logp = (behaviour + math.log(ratio)).requires_grad_(True)
    loss, _ = token_loss(
        logp, behaviour, torch.tensor([advantage], dtype=torch.float64), torch.zeros(1).long(), config
    )
    (slope,) = torch.autograd.grad(loss.sum(), logp)
    return float(loss.detach()), float(slope)


@given(st.floats(0.05, 5.0), st.floats(-3.0, 3.0))
def test_value_and_gradient_are_the_definition(ratio: float, advantage: float) -> None:
    clipped = min(max(ratio, 0.8), 1.28)
    loss, slope = loss_and_slope(ratio, advantage)
    assert loss == pytest.approx(-min(ratio * advantage, clipped * advantage), abs=1e-9)
    stopped = (advantage > 0 and ratio > 1.28) or (advantage < 0 and ratio < 0.8)
    if not any(math.isclose(ratio, bound, rel_tol=1e-9) for bound in (0.8, 1.28)):
        assert slope == pytest.approx(0.0 if stopped else -ratio * advantage, abs=1e-9)


@given(st.floats(0.05, 9.0), st.floats(-3.0, 3.0), st.floats(1.5, 4.0))
def test_the_dual_clip_bounds_the_loss_of_negative_advantages_alone(
    ratio: float, advantage: float, bound: float
) -> None:
    """verl's form: max(min(r A, clip(r) A), c A) where A < 0."""
    config = Config(clip_low=0.2, clip_high=0.28, dual_clip=bound)
    plain, plain_slope = loss_and_slope(ratio, advantage)
    loss, slope = loss_and_slope(ratio, advantage, config)
    cut = advantage < 0 and ratio > bound
    assert loss == pytest.approx(-bound * advantage if cut else plain, abs=1e-9)
    if not math.isclose(ratio, bound, rel_tol=1e-9):
        assert slope == (0.0 if cut else pytest.approx(plain_slope, abs=1e-12))


def test_a_dual_clip_within_the_other_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than 1"):
        Config(dual_clip=0.9)


def test_on_policy_the_gradient_is_reinforce() -> None:
    assert loss_and_slope(1.0, 2.0)[1] == pytest.approx(-2.0)
    assert loss_and_slope(1.0, -0.5)[1] == pytest.approx(0.5)


def test_no_advantage_no_loss() -> None:
    logp = torch.tensor([-1.0, -300.0], requires_grad=True)
    loss, _ = token_loss(logp, torch.tensor([-2.0, -0.1]), torch.zeros(2), torch.zeros(2).long(), CONFIG)
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0]
    assert logp.grad is not None
    assert logp.grad.tolist() == [0.0, 0.0]


def test_ratios_beyond_float32_stay_finite_and_are_reported() -> None:
    logp = torch.tensor([0.0, -200.0, -1.0], requires_grad=True)
    behaviour = torch.tensor([-200.0, 0.0, -1.0])
    loss, metrics = token_loss(
        logp, behaviour, torch.tensor([-1.0, -1.0, 1.0]), torch.zeros(3).long(), CONFIG
    )
    loss.sum().backward()
    assert bool(torch.isfinite(loss).all())
    assert logp.grad is not None
    assert bool(torch.isfinite(logp.grad).all())
    assert metrics["clip_fraction"].tolist() == [0.0, 1.0, 0.0]
    assert metrics["clip_low"].tolist() == [0.0, 1.0, 0.0]
    assert metrics["ratio"][2] == 1.0
