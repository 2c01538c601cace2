"""Estimators of the Kullback-Leibler divergence: unbiased, and exact where the policies nearly agree."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.divergence import kl_k1, kl_k3


@given(st.integers(0, 1000), st.floats(0.01, 2.0))
def test_both_estimators_have_the_divergence_as_their_mean(seed: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(2, 9, generator=generator, dtype=torch.float64)
    logp, logq = logits.log_softmax(-1)
    exact = float((logp.exp() * (logp - logq)).sum())
    assert float((logp.exp() * kl_k1(logp, logq)).sum()) == pytest.approx(exact, abs=1e-12)
    assert float((logp.exp() * kl_k3(logp, logq)).sum()) == pytest.approx(exact, abs=1e-9)
    assert bool((kl_k3(logp, logq) >= 0).all())


@pytest.mark.parametrize("d", [1e-4, -1e-3, 0.05, -0.0999, 0.1001, 3.0, -12.0])
def test_k3_keeps_its_digits_in_float32(d: float) -> None:
    logp = torch.zeros(1, requires_grad=True)
    d32 = float(torch.tensor(d, dtype=torch.float32))
    value = kl_k3(logp, torch.tensor([d]))
    value.sum().backward()
    exact = sum(d32**n / math.factorial(n) for n in range(2, 60))
    assert float(value.detach()) == pytest.approx(exact, rel=1e-5)
    assert logp.grad is not None
    assert float(logp.grad) == pytest.approx(-math.expm1(d32), rel=1e-4)


def test_k3_stays_finite() -> None:
    far = kl_k3(torch.tensor([-500.0, 0.0]), torch.tensor([0.0, -500.0]))
    assert bool(torch.isfinite(far).all())
