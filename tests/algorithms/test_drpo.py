"""DRPO's family: each penalty's weight, where it balances the advantage, on which tokens it stands."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms import drpo
from params.load import compose
from tests.algorithms.objective_cases import slope

PROBABILITY = st.floats(0.001, 0.999)
ADVANTAGE = st.one_of(st.floats(0.01, 4.0), st.floats(-4.0, -0.01))
RATIOS = (0.2, 0.9, 1.1, 5.0)

PENALTIES: dict[str, Callable[[float, float], float]] = {
    "probability": lambda r, mu: mu * (r - 1) ** 2,
    "ratio": lambda r, mu: (r - 1) ** 2,
    "k1": lambda r, mu: -math.log(r),
    "k3": lambda r, mu: r - 1 - math.log(r),
    "tv": lambda r, mu: abs(r - 1),
    "log_square": lambda r, mu: math.log(r) ** 2 / 2,
}
WEIGHTS: dict[str, Callable[[float, float, float, float], float]] = {
    "probability": lambda r, mu, sign, delta: 1 - sign * (r * mu - mu) / delta,
    "ratio": lambda r, mu, sign, delta: 1 - sign * (r - 1) / delta,
    "k1": lambda r, mu, sign, delta: 1 + sign / (2 * delta * r),
    "k3": lambda r, mu, sign, delta: 1 - sign * (r - 1) / (2 * delta * r),
    "tv": lambda r, mu, sign, delta: 1 - sign * math.copysign(1, r - 1) / (2 * delta),
    "log_square": lambda r, mu, sign, delta: 1 - sign * math.log(r) / (2 * delta * r),
}
every_penalty = pytest.mark.parametrize("penalty", PENALTIES)


def at(
    p: float | Tensor, mu: float, advantage: float, **options: Any
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, gradient and metrics [N] at policy probabilities ``p`` [N]; float64."""
    logp = torch.as_tensor(p, dtype=torch.float64).reshape(-1).log().requires_grad_(True)
    behaviour = torch.full_like(logp, math.log(mu)).detach()
    arguments = (logp, behaviour, torch.full_like(behaviour, advantage), torch.zeros(len(logp)).long())
    loss, metrics = drpo.token_loss(*arguments, drpo.Config.model_validate(options))
    return loss.detach(), slope(loss, logp), metrics


@every_penalty
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("advantage", [1.5, -0.5])
@pytest.mark.parametrize("delta", [0.15, 12.5])
def test_each_penalty_has_its_value_and_its_weight(
    penalty: str, ratio: float, advantage: float, delta: float
) -> None:
    mu, sign = 0.15, math.copysign(1.0, advantage)
    loss, found, metrics = at(ratio * mu, mu, advantage, delta=delta, penalty=penalty)
    omega = PENALTIES[penalty](ratio, mu)
    assert float(loss) == pytest.approx(-ratio * advantage + abs(advantage) / (2 * delta) * omega, rel=1e-12)
    weight = WEIGHTS[penalty](ratio, mu, sign, delta)
    assert float(found) == pytest.approx(-advantage * ratio * weight, rel=1e-9)
    assert float(metrics["weight"]) == pytest.approx(weight, rel=1e-9)


@every_penalty
@given(p=PROBABILITY, mu=PROBABILITY, a=ADVANTAGE, weighted=st.booleans())
def test_the_gradient_is_that_of_the_weight(
    penalty: str, p: float, mu: float, a: float, weighted: bool
) -> None:
    options = {"delta": 0.3, "penalty": penalty, "weighted_by_advantage": weighted}
    loss, found, metrics = at(p, mu, a, **options)
    factor = abs(a) if weighted else 1.0
    written = p / mu * a - factor / 0.6 * PENALTIES[penalty](p / mu, mu)
    assert float(loss) == pytest.approx(-written, rel=1e-9, abs=1e-9)
    assert float(found) == pytest.approx(-a * p / mu * float(metrics["weight"]), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("delta", [0.1, 0.4])
def test_where_the_k3_weight_is_zero(delta: float) -> None:
    mu = 0.05
    for advantage, ratio in ((2.0, 1 / (1 - 2 * delta)), (-2.0, 1 / (1 + 2 * delta))):
        _, found, metrics = at(ratio * mu, mu, advantage, delta=delta, penalty="k3")
        assert float(found) == pytest.approx(0.0, abs=1e-12)
        assert float(metrics["weight"]) == pytest.approx(0.0, abs=1e-12)


@given(PROBABILITY, PROBABILITY, ADVANTAGE, st.sampled_from([0.08, 0.15, 0.3, 1.0, 2.5, 12.5]))
def test_the_weight_of_drpo_is_bounded(p: float, mu: float, a: float, delta: float) -> None:
    _, _, metrics = at(p, mu, a, delta=delta)
    weight = float(metrics["weight"])
    assert 1 - 1 / delta <= weight <= 1 + 1 / delta
    if abs(weight) > 1e-9 and abs(weight - 1) > 1e-9:
        assert float(metrics["corrective"]) == (weight < 0)
        assert float(metrics["amplified"]) == (weight > 1)


@pytest.mark.parametrize("advantage", [2.0, -0.5])
def test_the_boundary(advantage: float) -> None:
    mu, delta, sign = 0.4, 0.15, math.copysign(1.0, advantage)
    places = torch.tensor([mu, mu + sign * delta, mu + sign * (delta + 0.05), mu - sign * 0.05])
    _, found, metrics = at(places, mu, advantage, delta=delta)
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
    loss, _, _ = at(grid, mu, advantage, delta=delta)
    start, _, _ = at(mu, mu, advantage, delta=delta)
    best = mu + math.copysign(delta, advantage)
    assert float(grid[loss.argmin()]) == pytest.approx(best, abs=1e-4)
    assert float(start[0] - loss.min()) == pytest.approx(abs(advantage) * delta / (2 * mu), abs=1e-6)
    if advantage == 2.0:
        assert float(start[0] - loss.min()) == pytest.approx(0.375, abs=1e-6)


@pytest.mark.parametrize("advantage", [0.5, -0.25])
def test_without_the_advantage_the_optimum_moves_with_it(advantage: float) -> None:
    grid = torch.linspace(0.001, 0.999, 9981, dtype=torch.float64)
    loss, _, _ = at(grid, 0.4, advantage, delta=0.15, weighted_by_advantage=False)
    assert float(grid[loss.argmin()]) == pytest.approx(0.4 + advantage * 0.15, abs=1e-4)


@every_penalty
def test_without_an_advantage_there_is_no_penalty(penalty: str) -> None:
    for weighted in (True, False):
        loss, found, metrics = at(0.9, 0.1, 0.0, delta=0.1, penalty=penalty, weighted_by_advantage=weighted)
        assert (float(loss), float(found), float(metrics["weight"])) == (0.0, 0.0, 1.0)


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
    spo = drpo.Config(delta=0.2, penalty="ratio")
    found = (mu * drpo.token_loss(*arguments, spo)[0]).sum() + plain
    torch.testing.assert_close(found, (advantage.abs() * (p - mu).square() / mu).sum() / 0.4)


@given(PROBABILITY, PROBABILITY, ADVANTAGE)
def test_the_published_delta_hardly_regularises(p: float, mu: float, advantage: float) -> None:
    _, found, metrics = at(p, mu, advantage, delta=12.5)
    assert 0.92 <= float(metrics["weight"]) <= 1.08
    assert float(metrics["corrective"]) == 0.0
    _, free, _ = at(p, mu, advantage, delta=1e12)
    assert float(free) == pytest.approx(-advantage * p / mu, rel=1e-9)
    assert abs(float(found) / float(free) - 1) <= 0.08 + 1e-9


@given(PROBABILITY, PROBABILITY, ADVANTAGE)
def test_drpo_is_spo_with_epsilon_delta_over_mu(p: float, mu: float, advantage: float) -> None:
    one = at(p, mu, advantage, delta=0.15)
    other = at(p, mu, advantage, delta=0.15 / mu, penalty="ratio")
    torch.testing.assert_close(one[0], other[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one[1], other[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one[2]["weight"], other[2]["weight"], rtol=1e-9, atol=1e-9)


@every_penalty
@pytest.mark.parametrize("where", ["outside", "departing"])
@given(p=PROBABILITY, mu=PROBABILITY, a=ADVANTAGE, boundary=st.sampled_from([None, 0.3]))
def test_inside_the_boundary_is_the_plain_surrogate(
    penalty: str, where: str, p: float, mu: float, a: float, boundary: float | None
) -> None:
    limit, sign = boundary or 0.15, math.copysign(1.0, a)
    distance = abs(p - mu) if where == "outside" else sign * (p - mu)
    if abs(distance - limit) < 1e-9:
        return
    found = at(p, mu, a, delta=0.15, penalty=penalty, where=where, boundary=boundary)
    wanted = at(p, mu, a, delta=0.15 if distance > limit else 1e15, penalty=penalty)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[2]["weight"], wanted[2]["weight"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_outside_penalises_in_both_directions_and_departing_in_one(advantage: float) -> None:
    places = torch.tensor([0.1, 0.7])  # both further than 0.15 from 0.4
    outside = at(places, 0.4, advantage, where="outside")[2]["weight"]
    departing = at(places, 0.4, advantage, where="departing")[2]["weight"]
    assert bool((outside != 1).all())
    assert (departing != 1).tolist() == [advantage < 0, advantage > 0]


@pytest.mark.parametrize(
    ("preset", "penalty", "delta", "where"),
    [
        ("drpo", "probability", 0.15, "everywhere"),
        ("drpo-published", "probability", 12.5, "everywhere"),
        ("mask-drpo", "probability", 0.15, "outside"),
        ("spo", "ratio", 0.2, "everywhere"),
    ],
)
def test_the_presets_are_of_one_family(preset: str, penalty: str, delta: float, where: str) -> None:
    method = compose("nano", "arithmetic", preset).method
    config = method.objective.resolve(drpo.Config, "method.objective")
    assert isinstance(config, drpo.Config)
    assert (method.objective.name, config.penalty, config.delta) == ("drpo", penalty, delta)
    assert (config.where, config.weighted_by_advantage) == (where, True)
    assert (method.scale_by_std, method.aggregation) == (False, "constant")


@every_penalty
def test_what_lies_beyond_the_clamp_has_no_gradient(penalty: str) -> None:
    logp = torch.tensor([0.0, -50.0], requires_grad=True)
    arguments = (logp, torch.tensor([-50.0, 0.0]), torch.tensor([-1.0, 1.0]), torch.zeros(2).long())
    config = drpo.Config.model_validate({"penalty": penalty})
    loss, _ = drpo.token_loss(*arguments, config)
    assert bool(torch.isfinite(loss).all())
    assert slope(loss, logp).tolist() == [0.0, 0.0]
