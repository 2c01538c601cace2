"""DPPO's mask: which moves it drops, which it keeps, and what the importance weight does."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms import dppo, grpo
from algorithms.divergence import TopK, binary_kl, binary_tv
from algorithms.dppo import Config, token_loss, top_k
from tests.algorithms.objective_cases import slope


def at(p: float, mu: float, advantage: float, config: Config) -> tuple[float, float, dict[str, Tensor]]:
    """Loss, gradient and metrics for one token."""
    logp = torch.tensor([math.log(p)], dtype=torch.float64, requires_grad=True)
    behaviour = torch.tensor([math.log(mu)], dtype=torch.float64)
    loss, metrics = token_loss(
        logp, behaviour, torch.tensor([advantage], dtype=torch.float64), torch.zeros(1).long(), config
    )
    return float(loss.detach()), float(slope(loss, logp)), metrics


@given(
    st.floats(0.001, 0.999),
    st.floats(0.001, 0.999),
    st.floats(-3.0, 3.0),
    st.sampled_from(["binary_tv", "binary_kl"]),
)
def test_value_and_gradient_are_the_definition(p: float, mu: float, a: float, divergence: str) -> None:
    config = Config.model_validate({"divergence": divergence, "delta_low": 0.1, "delta_high": 0.2})
    if divergence == "binary_tv":
        moved = abs(p - mu)
    else:
        moved = mu * math.log(mu / p) + (1 - mu) * math.log((1 - mu) / (1 - p))
    masked = (a > 0 and p > mu and moved > 0.2) or (a <= 0 and p < mu and moved > 0.1)
    if min(abs(moved - 0.1), abs(moved - 0.2)) < 1e-9:
        return
    loss, found, metrics = at(p, mu, a, config)
    weight = 0.0 if masked else min(p / mu, 10.0)
    assert loss == pytest.approx(-a * weight * math.log(p), abs=1e-9)
    assert found == pytest.approx(-a * weight, abs=1e-9)
    assert float(metrics["divergence"]) == pytest.approx(moved, rel=1e-7, abs=1e-12)
    assert float(metrics["clip_fraction"]) == (masked and a != 0)


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999), st.floats(0.1, 3.0))
def test_a_move_back_is_never_masked(p: float, mu: float, size: float) -> None:
    back = size if p < mu else -size
    for divergence in ("binary_tv", "binary_kl"):
        config = Config.model_validate({"divergence": divergence, "delta_low": 0.0, "delta_high": 0.0})
        assert at(p, mu, back, config)[1] != 0.0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_threshold(sign: float) -> None:
    mu, config = 0.4, Config(divergence="binary_tv")
    assert at(mu + sign * (0.15 + 1e-6), mu, sign, config)[1] == 0.0
    assert at(mu + sign * (0.15 - 1e-6), mu, sign, config)[1] != 0.0


def test_a_ratio_clip_and_a_probability_mask_disagree() -> None:
    rare, common = (1e-3, 1e-5, 1.0), (0.80, 0.99, -1.0)
    clip = grpo.Config(clip_low=0.2, clip_high=0.28)

    def by_ratio(p: float, mu: float, advantage: float) -> float:
        logp = torch.tensor([math.log(p)], dtype=torch.float64, requires_grad=True)
        behaviour = torch.tensor([math.log(mu)], dtype=torch.float64)
        loss, _ = grpo.token_loss(logp, behaviour, torch.tensor([advantage]), torch.zeros(1).long(), clip)
        return float(slope(loss, logp))

    assert by_ratio(*rare) == 0.0
    assert at(*rare, Config())[1] == pytest.approx(-10.0)
    assert by_ratio(*common) != 0.0
    assert at(*common, Config())[1] == 0.0


def test_the_cap_bounds_the_weight() -> None:
    assert at(1e-3, 1e-5, 1.0, Config(ratio_cap=20.0))[1] == pytest.approx(-20.0)
    assert at(1e-3, 1e-5, 1.0, Config(ratio_cap=1e4))[1] == pytest.approx(-100.0)


@pytest.mark.parametrize(
    ("divergence", "limit"), [("binary_tv", 0.15), ("binary_kl", 0.05), ("top_tv", 0.15), ("top_kl", 0.05)]
)
def test_published_thresholds_are_the_defaults(divergence: str, limit: float) -> None:
    config = Config.model_validate({"divergence": divergence})
    measure = binary_tv if divergence.endswith("_tv") else binary_kl
    probabilities = torch.linspace(0.41, 0.9, 50, dtype=torch.float64)
    logp, behaviour = probabilities.log(), torch.full_like(probabilities, 0.4).log()
    moved = measure(behaviour, logp)
    nothing = torch.zeros(50, 0, dtype=torch.float64)
    top = TopK(nothing, nothing, nothing.bool()) if top_k(config) else None
    arguments = (logp, behaviour, torch.ones(50, dtype=torch.float64), torch.zeros(50).long())
    _, metrics = token_loss(*arguments, config, top)
    assert metrics["clip_high"].tolist() == (moved > limit).double().tolist()
    assert 0 < float(metrics["clip_high"].sum()) < 50


def test_top_tokens_see_a_move_that_the_sampled_one_does_not() -> None:
    """Two unsampled tokens swap their mass while the sampled one rises a little."""
    before = torch.tensor([[0.5, 0.1, 0.3, 0.1]], dtype=torch.float64).log()
    now = torch.tensor([[0.1, 0.49, 0.31, 0.1]], dtype=torch.float64).log()
    top = TopK(before[:, :3], now[:, :3], torch.tensor([[False, False, True]]))
    arguments = (now[:, 2], before[:, 2], torch.ones(1, dtype=torch.float64), torch.zeros(1).long())
    for divergence in ("top_tv", "top_kl"):
        _, metrics = token_loss(*arguments, Config.model_validate({"divergence": divergence}), top)
        assert metrics["clip_high"].tolist() == [1.0]
    _, metrics = token_loss(*arguments, Config())
    assert metrics["clip_high"].tolist() == [0.0]


def test_what_the_trainer_asks() -> None:
    assert top_k(Config()) == 0
    assert top_k(Config(divergence="binary_kl")) == 0
    assert top_k(Config(divergence="top_tv")) == 20
    assert top_k(Config(divergence="top_kl", k=7)) == 7


def test_missing_top_tokens_are_one_line() -> None:
    one = torch.zeros(1)
    with pytest.raises(ValueError, match="top_kl needs the top 20 tokens") as caught:
        dppo.token_loss(one, one, one, one.long(), Config(divergence="top_kl"))
    assert "\n" not in str(caught.value)
