"""The Jensen-Shannon estimator: unbiased, never negative, its gradient, and its digits in float32."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from algorithms.divergence import binary_jsd, jensen_shannon, kl_k3
from tests.algorithms.objective_cases import slope

SEEDS = st.integers(0, 10_000)
SPREADS = st.floats(0.01, 4.0)
VALUES = {2.0: 0.0849495, 0.5: 0.0424748, 10.0: 2.1368110, 0.1: 0.2136811}
WEIGHTS = {2.0: 0.2876821, 0.5: -0.1013663, 10.0: 2.9891850, 0.1: -0.0852374}


def pair(seed: int, spread: float, outcomes: int = 9) -> tuple[Tensor, Tensor]:
    """Log-probabilities of two distributions, [V] each, float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(2, outcomes, generator=generator, dtype=torch.float64)
    logp, logq = logits.log_softmax(-1)
    assume_unclamped(logp, logq)
    return logp, logq


def assume_unclamped(logp: Tensor, logq: Tensor) -> None:
    """Beyond 20 nats the ratio is clamped, and is not the exact divergence's."""
    assume(float((logp - logq).detach().abs().max()) < 20.0)


def jsd(logp: Tensor, logq: Tensor) -> Tensor:
    """By definition: the mean of both policies' divergence from their mixture."""
    p, q = logp.exp(), logq.exp()
    mixture = ((p + q) / 2).log()
    return ((p * (logp - mixture)).sum() + (q * (logq - mixture)).sum()) / 2


def at(ratio: float, cap: float | None = None) -> tuple[float, float]:
    """Value and gradient where the ratio is ``ratio``."""
    logq = torch.tensor([-3.0], dtype=torch.float64)
    logp = (logq + math.log(ratio)).requires_grad_(True)
    value = jensen_shannon(logp, logq, ratio_cap=cap)
    return float(value.detach()), float(slope(value, logp))


@given(SEEDS, SPREADS)
def test_its_mean_under_q_is_the_divergence(seed: int, spread: float) -> None:
    logp, logq = pair(seed, spread)
    found = float((logq.exp() * jensen_shannon(logp, logq)).sum())
    back = float((logp.exp() * jensen_shannon(logq, logp)).sum())
    assert found == pytest.approx(float(jsd(logp, logq)), abs=1e-12)
    assert found == pytest.approx(back, abs=1e-12)
    assert 0.0 <= found <= math.log(2)


@pytest.mark.parametrize("ratio", VALUES)
def test_known_values_and_weights(ratio: float) -> None:
    value, weight = at(ratio)
    assert value == pytest.approx(VALUES[ratio], abs=5e-8)
    assert weight == pytest.approx(WEIGHTS[ratio], abs=5e-8)


def test_it_vanishes_with_its_slope_at_one_and_tends_to_half_ln_2() -> None:
    assert at(1.0) == (0.0, 0.0)
    assert at(math.exp(-20.0))[0] == pytest.approx(math.log(2) / 2, abs=1e-7)
    step = 1e-4
    assert (at(1 + step)[0] + at(1 - step)[0]) / step**2 == pytest.approx(0.25, abs=1e-6)


def test_the_strongest_pull_back() -> None:
    ratios = torch.linspace(0.25, 0.35, 20_001, dtype=torch.float64)
    logp = ratios.log().requires_grad_(True)
    weights = slope(jensen_shannon(logp, torch.zeros_like(ratios)), logp)
    assert float(weights.min()) == pytest.approx(-0.1159805, abs=5e-8)
    assert float(ratios[weights.argmin()]) == pytest.approx(0.3020176, abs=1e-5)


@given(st.floats(-12.0, 12.0))
def test_pointwise_laws(x: float) -> None:
    ratio = math.exp(x)
    value, weight = at(ratio)
    assert value >= 0.0
    assert at(1 / ratio)[0] == pytest.approx(value / ratio, rel=1e-9, abs=1e-14)
    assert weight == pytest.approx(0.5 * ratio * math.log(2 * ratio / (1 + ratio)), rel=1e-9, abs=1e-14)
    share = ratio / (1 + ratio)
    entropy = -share * math.log(share) - (1 - share) * math.log1p(-share)
    assert value == pytest.approx(0.5 * (1 + ratio) * (math.log(2) - entropy), rel=1e-6, abs=1e-10)


@given(SEEDS, SPREADS)
def test_its_mean_under_the_mixture_is_bounded_and_the_divergence(seed: int, spread: float) -> None:
    logp, logq = pair(seed, spread)
    ratio, mixture = (logp - logq).exp(), (logp.exp() + logq.exp()) / 2
    bounded = 2 * jensen_shannon(logp, logq) / (1 + ratio)
    assert float(bounded.max()) <= math.log(2)
    assert float((mixture * bounded).sum()) == pytest.approx(float(jsd(logp, logq)), abs=1e-12)


@given(SEEDS, SPREADS)
def test_the_gradient_is_that_of_the_exact_divergence(seed: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (spread * torch.randn(9, generator=generator, dtype=torch.float64)).requires_grad_(True)
    logq = torch.randn(9, generator=generator, dtype=torch.float64).log_softmax(-1)
    logp = logits.log_softmax(-1)
    assume_unclamped(logp, logq)
    (exact,) = torch.autograd.grad(jsd(logp, logq), logits, retain_graph=True)
    (found,) = torch.autograd.grad((logq.exp() * jensen_shannon(logp, logq)).sum(), logits)
    torch.testing.assert_close(found, exact, rtol=0.0, atol=1e-14)


def test_near_one_it_is_the_series() -> None:
    x = 1e-3
    assert abs(at(math.exp(x))[0] - (x**2 / 8 + x**3 / 16)) < 1e-12


@pytest.mark.parametrize("x", [1e-4, -1e-4, 1e-3, 0.3, -0.999, 1.001, 5.0, -7.0])
def test_it_keeps_its_digits_in_float32(x: float) -> None:
    logp = torch.tensor([x], requires_grad=True)
    value = jensen_shannon(logp, torch.zeros(1))
    exact = torch.tensor([float(logp.detach())], dtype=torch.float64, requires_grad=True)
    wanted = jensen_shannon(exact, torch.zeros(1).double())
    assert float(value.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert float(slope(value, logp)) == pytest.approx(float(slope(wanted, exact)), rel=1e-5)


@given(SEEDS, SPREADS)
def test_bounds_between_divergences(seed: int, spread: float) -> None:
    logp, logq = pair(seed, spread)
    p, q = logp.exp(), logq.exp()
    found = float((q * jensen_shannon(logp, logq)).sum())
    variation = float((p - q).abs().sum() / 2)
    both_ways = float(((p - q) * (logp - logq)).sum())
    assert variation**2 / 2 - 1e-14 <= found <= math.log(2) * variation + 1e-14
    assert found <= both_ways / 4 + 1e-14
    assert bool((binary_jsd(logp, logq) <= found + 1e-14).all())


@pytest.mark.parametrize("x", [-3.0, -0.2, 0.0, 0.4, 2.5])
def test_the_ancestors_losses(x: float) -> None:
    """DPH-RL's low-variance form is twice this one; its forward KL has the weight r - 1."""
    ratio = math.exp(x)
    doubled = ratio * x - (ratio + 1) * math.log((ratio + 1) / 2)
    assert 2 * at(ratio)[0] == pytest.approx(doubled, abs=1e-12)
    logp = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    forward = kl_k3(torch.zeros(1).double(), logp)
    assert float(forward.detach()) == pytest.approx(ratio - x - 1, abs=1e-12)
    assert float(slope(forward, logp)) == pytest.approx(ratio - 1, abs=1e-12)


@pytest.mark.parametrize("cap", [2.0, 10.0])
def test_the_cap_bounds_the_push_and_nothing_else(cap: float) -> None:
    for ratio in (0.01, 0.7, 1.5, cap):
        assert at(ratio, cap) == pytest.approx(at(ratio), abs=1e-12)
    value, weight = at(40.0, cap)
    assert value == at(40.0)[0]
    assert weight == pytest.approx(0.5 * cap * math.log(80 / 41), abs=1e-12)


def test_a_cap_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="ratio_cap is 0"):
        jensen_shannon(torch.zeros(1), torch.zeros(1), ratio_cap=0.0)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_it_stays_finite(kind: torch.dtype) -> None:
    logp = torch.tensor([0.0, -50.0, 0.0, -1e4, -math.inf], dtype=kind, requires_grad=True)
    logq = torch.tensor([-50.0, 0.0, 0.0, 0.0, -1.0], dtype=kind)
    value = jensen_shannon(logp, logq)
    assert bool(torch.isfinite(value).all())
    found = slope(value, logp)
    assert bool(torch.isfinite(found).all())
    assert found[:2].tolist() == [0.0, 0.0]
    assert jensen_shannon(torch.zeros(0), torch.zeros(0)).shape == (0,)
