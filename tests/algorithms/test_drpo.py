"""DRPO and SPO: quadratic penalties, where they balance the advantage, and how the two are one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms import drpo, spo
from tests.algorithms.objective_cases import slope

PROBABILITY = st.floats(0.001, 0.999)
ADVANTAGE = st.one_of(st.floats(0.01, 4.0), st.floats(-4.0, -0.01))


def at(
    p: float | Tensor, mu: float, advantage: float, config: drpo.Config | spo.Config
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, gradient and metrics [N] at policy probabilities ``p`` [N]; float64."""
    logp = torch.as_tensor(p, dtype=torch.float64).reshape(-1).log().requires_grad_(True)
    behaviour = torch.full_like(logp, math.log(mu)).detach()
    arguments = (logp, behaviour, torch.full_like(behaviour, advantage), torch.zeros(len(logp)).long())
    loss, metrics = (
        drpo.token_loss(*arguments, config)
        if isinstance(config, drpo.Config)
        else spo.token_loss(*arguments, config)
    )
    return loss.detach(), slope(loss, logp), metrics


@given(PROBABILITY, PROBABILITY, ADVANTAGE, st.sampled_from([0.08, 0.15, 0.3, 1.0, 2.5, 12.5]))
def test_value_and_gradient_are_the_written_objective(p: float, mu: float, a: float, delta: float) -> None:
    loss, found, metrics = at(p, mu, a, drpo.Config(delta=delta))
    ratio, sign = p / mu, math.copysign(1.0, a)
    written = ratio * a - abs(a) / (2 * delta) * mu * (ratio - 1) ** 2
    weight = 1 - sign * (p - mu) / delta
    assert float(loss) == pytest.approx(-written, rel=1e-9, abs=1e-9)
    assert float(found) == pytest.approx(-a * ratio * weight, rel=1e-9, abs=1e-9)
    assert float(metrics["weight"]) == pytest.approx(weight, abs=1e-12)
    assert 1 - 1 / delta <= weight <= 1 + 1 / delta
    if abs(weight) > 1e-9 and abs(weight - 1) > 1e-9:
        assert float(metrics["corrective"]) == (weight < 0)
        assert float(metrics["amplified"]) == (weight > 1)


@pytest.mark.parametrize("advantage", [2.0, -0.5])
def test_the_boundary(advantage: float) -> None:
    mu, delta, sign = 0.4, 0.15, math.copysign(1.0, advantage)
    places = torch.tensor([mu, mu + sign * delta, mu + sign * (delta + 0.05), mu - sign * 0.05])
    _, found, metrics = at(places, mu, advantage, drpo.Config(delta=delta))
    pull = (-found / advantage).tolist()
    assert pull[0] == pytest.approx(1.0)
    assert pull[1] == pytest.approx(0.0, abs=1e-6)
    assert pull[2] < 0.0
    assert pull[3] > float(places[3]) / mu
    assert metrics["corrective"][2] == 1.0
    assert metrics["amplified"][3] == 1.0


@pytest.mark.parametrize("advantage", [2.0, 0.1, -1.0])
def test_the_optimum_is_one_delta_away_whatever_the_advantage(advantage: float) -> None:
    grid = torch.linspace(0.001, 0.999, 9981, dtype=torch.float64)
    mu, delta = 0.4, 0.15
    loss, _, _ = at(grid, mu, advantage, drpo.Config(delta=delta))
    start, _, _ = at(mu, mu, advantage, drpo.Config(delta=delta))
    best = mu + math.copysign(delta, advantage)
    assert float(grid[loss.argmin()]) == pytest.approx(best, abs=1e-4)
    assert float(start[0] - loss.min()) == pytest.approx(abs(advantage) * delta / (2 * mu), abs=1e-6)
    if advantage == 2.0:
        assert float(start[0] - loss.min()) == pytest.approx(0.375, abs=1e-6)


def test_under_the_behaviour_policy_the_penalties_are_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    logp, behaviour = logits.log_softmax(-1)
    advantage = torch.randn(9, generator=generator, dtype=torch.float64)
    arguments = (logp, behaviour, advantage, torch.zeros(9).long())
    p, mu = logp.exp(), behaviour.exp()
    plain = (mu * (p / mu) * advantage).sum()
    found = (mu * drpo.token_loss(*arguments, drpo.Config(delta=0.2))[0]).sum() + plain
    torch.testing.assert_close(found, (advantage.abs() * (p - mu).square()).sum() / 0.4)
    found = (mu * spo.token_loss(*arguments, spo.Config(epsilon=0.2))[0]).sum() + plain
    torch.testing.assert_close(found, (advantage.abs() * (p - mu).square() / mu).sum() / 0.4)


@given(PROBABILITY, PROBABILITY, ADVANTAGE)
def test_the_published_delta_hardly_regularises(p: float, mu: float, advantage: float) -> None:
    _, found, metrics = at(p, mu, advantage, drpo.Config(delta=12.5))
    assert 0.92 <= float(metrics["weight"]) <= 1.08
    assert float(metrics["corrective"]) == 0.0
    _, free, _ = at(p, mu, advantage, drpo.Config(delta=1e12))
    assert float(free) == pytest.approx(-advantage * p / mu, rel=1e-9)
    assert abs(float(found) / float(free) - 1) <= 0.08 + 1e-9


@given(PROBABILITY, PROBABILITY, ADVANTAGE)
def test_drpo_is_spo_with_epsilon_delta_over_mu(p: float, mu: float, advantage: float) -> None:
    one = at(p, mu, advantage, drpo.Config(delta=0.15))
    other = at(p, mu, advantage, spo.Config(epsilon=0.15 / mu))
    torch.testing.assert_close(one[0], other[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one[1], other[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one[2]["weight"], other[2]["weight"], rtol=1e-9, atol=1e-9)


@given(PROBABILITY, PROBABILITY, ADVANTAGE, st.sampled_from([0.2, 12.5]))
def test_spo_is_its_written_objective(p: float, mu: float, a: float, epsilon: float) -> None:
    loss, found, metrics = at(p, mu, a, spo.Config(epsilon=epsilon))
    ratio, sign = p / mu, math.copysign(1.0, a)
    weight = 1 - sign * (ratio - 1) / epsilon
    assert float(loss) == pytest.approx(
        -ratio * a + abs(a) * (ratio - 1) ** 2 / (2 * epsilon), rel=1e-9, abs=1e-9
    )
    assert float(found) == pytest.approx(-a * ratio * weight, rel=1e-9, abs=1e-9)
    assert float(metrics["weight"]) == pytest.approx(weight, rel=1e-9, abs=1e-9)


@given(PROBABILITY, PROBABILITY, ADVANTAGE, st.sampled_from([None, 0.3]))
def test_outside_penalises_what_dppo_would_mask(
    p: float, mu: float, a: float, boundary: float | None
) -> None:
    delta = 0.15
    departure = math.copysign(1.0, a) * (p - mu)
    if abs(departure - (boundary or delta)) < 1e-9:
        return
    found = at(p, mu, a, drpo.Config(delta=delta, where="outside", boundary=boundary))
    wanted = at(p, mu, a, drpo.Config(delta=delta if departure > (boundary or delta) else 1e15))
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[2]["weight"], wanted[2]["weight"], rtol=1e-9, atol=1e-9)


def test_what_lies_beyond_the_clamp_has_no_gradient() -> None:
    logp = torch.tensor([0.0, -50.0, -1.0], requires_grad=True)
    arguments = (
        logp,
        torch.tensor([-50.0, 0.0, -1.0]),
        torch.tensor([-1.0, 1.0, 1.0]),
        torch.zeros(3).long(),
    )
    assert slope(drpo.token_loss(*arguments, drpo.Config())[0], logp).tolist() == [0.0, 0.0, -1.0]
    assert slope(spo.token_loss(*arguments, spo.Config())[0], logp).tolist() == [0.0, 0.0, -1.0]
