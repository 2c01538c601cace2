"""Divergences of one token against the rest: definitions, bounds, extremes, and the top tokens between."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms.divergence import TopK, binary_jsd, binary_kl, binary_tv, top_kl, top_tv
from tests.algorithms.objective_cases import slope

PROBABILITY = st.floats(1e-6, 1 - 1e-6)


def logs(*values: float) -> list[Tensor]:
    return [torch.tensor([math.log(value)], dtype=torch.float64) for value in values]


def kl(p: Tensor, q: Tensor) -> float:
    return float(torch.special.xlogy(p, p / q).sum())


@given(PROBABILITY, PROBABILITY)
def test_they_are_the_definitions(p: float, q: float) -> None:
    logp, logq = logs(p, q)
    both = torch.tensor([p, 1 - p], dtype=torch.float64), torch.tensor([q, 1 - q], dtype=torch.float64)
    mixture = (both[0] + both[1]) / 2
    assert float(binary_tv(logp, logq)) == pytest.approx(abs(p - q), abs=1e-12)
    assert float(binary_kl(logp, logq)) == pytest.approx(kl(*both), rel=1e-7, abs=1e-12)
    found = float(binary_jsd(logp, logq))
    assert found == pytest.approx((kl(both[0], mixture) + kl(both[1], mixture)) / 2, abs=1e-12)
    assert found == pytest.approx(float(binary_jsd(logq, logp)), abs=1e-14)


@given(PROBABILITY, PROBABILITY)
def test_pinsker_and_the_range(p: float, q: float) -> None:
    logp, logq = logs(p, q)
    variation, divergence = float(binary_tv(logp, logq)), float(binary_kl(logp, logq))
    assert divergence >= 2 * variation**2 - 1e-12
    assert variation**2 / 2 - 1e-12 <= float(binary_jsd(logp, logq)) <= math.log(2) * variation + 1e-12


def test_a_binary_kl_of_a_twentieth_allows_a_shift_of_158_thousandths() -> None:
    worst = max(
        float(binary_tv(*logs(p, q)))
        for p in torch.linspace(0.005, 0.995, 100).tolist()
        for q in torch.linspace(0.005, 0.995, 100).tolist()
        if float(binary_kl(*logs(p, q))) <= 0.05
    )
    assert 0.15 < worst <= math.sqrt(0.025)


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_gradients(p: float, q: float) -> None:
    logp, logq = logs(p, q)
    logp.requires_grad_(True)
    middle = (p + q) / 2
    odds, other, mixed = (math.log(x / (1 - x)) for x in (p, q, middle))
    assert float(slope(binary_jsd(logp, logq), logp)) == pytest.approx(p * (odds - mixed) / 2, abs=1e-10)
    assert float(slope(binary_kl(logp, logq), logp)) == pytest.approx(p * (odds - other), abs=1e-9)
    if abs(p - q) > 1e-9:
        assert float(slope(binary_tv(logp, logq), logp)) == pytest.approx(math.copysign(p, p - q), abs=1e-12)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("divergence", [binary_tv, binary_kl, binary_jsd])
def test_extremes_stay_finite(divergence: Callable[[Tensor, Tensor], Tensor], kind: torch.dtype) -> None:
    far = [0.0, -1e-9, -0.5, -50.0, -1000.0, -math.inf]
    logp = torch.tensor([a for a in far for _ in far], dtype=kind, requires_grad=True)
    logq = torch.tensor([b for _ in far for b in far], dtype=kind)
    value = divergence(logp, logq)
    assert bool(torch.isfinite(value).all())
    assert bool((value >= 0).all())
    assert bool((value[logp == logq] == 0).all())
    assert bool(torch.isfinite(slope(value, logp)).all())


def test_certain_against_impossible() -> None:
    sure, never = torch.zeros(1, dtype=torch.float64), torch.full((1,), -math.inf, dtype=torch.float64)
    assert float(binary_tv(sure, never)) == pytest.approx(1.0)
    assert float(binary_jsd(sure, never)) == pytest.approx(math.log(2), abs=1e-10)
    assert float(binary_kl(sure, torch.full_like(sure, -50.0))) == pytest.approx(50.0, abs=1e-9)


@pytest.mark.parametrize("move", [1e-3, 1e-4, -1e-4])
def test_small_moves_keep_their_digits_in_float32(move: float) -> None:
    logq = torch.tensor([-0.7, -3.0, -9.0])
    logp = logq + move
    for divergence in (binary_tv, binary_kl, binary_jsd):
        exact = divergence(logp.double(), logq.double())
        torch.testing.assert_close(divergence(logp, logq).double(), exact, rtol=2e-3, atol=1e-14)


def top_of(logp: Tensor, behaviour_logp: Tensor, sampled: int, k: int) -> tuple[Tensor, Tensor, TopK]:
    ids = behaviour_logp.topk(k).indices
    top = TopK(behaviour_logp[ids][None], logp[ids][None], (ids == sampled)[None])
    return logp[sampled][None], behaviour_logp[sampled][None], top


@given(st.integers(0, 5000), st.integers(0, 11), st.integers(0, 9), st.floats(0.01, 3.0))
def test_more_tokens_see_more(seed: int, sampled: int, k: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(2, 12, generator=generator, dtype=torch.float64)
    logp, behaviour_logp = logits.log_softmax(-1)
    arguments = top_of(logp, behaviour_logp, sampled, k)
    p, q = logp.exp(), behaviour_logp.exp()
    variation, divergence = float(top_tv(*arguments)), float(top_kl(*arguments))
    whole_tv, whole_kl = float((p - q).abs().sum() / 2), kl(q, p)
    assert float(binary_tv(*arguments[:2])) - 1e-12 <= variation <= whole_tv + 1e-12
    assert float(binary_kl(arguments[1], arguments[0])) - 1e-12 <= divergence <= whole_kl + 1e-12
    if k == 0:
        assert variation == pytest.approx(float(binary_tv(*arguments[:2])), abs=1e-12)
        assert divergence == pytest.approx(float(binary_kl(arguments[1], arguments[0])), abs=1e-12)
    full = top_of(logp, behaviour_logp, sampled, 12)
    assert float(top_tv(*full)) == pytest.approx(whole_tv, abs=1e-9)
    assert float(top_kl(*full)) == pytest.approx(whole_kl, abs=1e-9)


def test_a_sampled_token_outside_the_top_is_a_bucket_of_its_own() -> None:
    now = torch.tensor([0.5, 0.1, 0.4]).double().log()
    before = torch.tensor([0.5, 0.4, 0.1]).double().log()
    logp, behaviour_logp, top = top_of(now, before, sampled=2, k=1)
    assert float(top_tv(logp, behaviour_logp, top)) == pytest.approx(0.3)
    assert float(top_tv(*top_of(now, before, sampled=0, k=1))) == pytest.approx(0.0)
    expected = 0.1 * math.log(0.1 / 0.4) + 0.4 * math.log(0.4 / 0.1)
    assert float(top_kl(logp, behaviour_logp, top)) == pytest.approx(expected)


def test_top_divergences_have_no_gradient_and_take_nothing() -> None:
    logp = torch.zeros(2, requires_grad=True)
    ids = torch.full((2, 3), -math.inf)
    top = TopK(ids, ids, torch.zeros(2, 3, dtype=torch.bool))
    for divergence in (top_tv, top_kl):
        found = divergence(logp, torch.tensor([-50.0, 0.0]), top)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert bool(torch.isfinite(found).all())
        empty = TopK(ids[:0], ids[:0], top.sampled[:0])
        assert divergence(logp[:0], logp[:0], empty).shape == (0,)
