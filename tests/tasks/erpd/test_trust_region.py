"""The trust region of ERPD's student, on divergences that are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tasks.erpd.trust_region import Region
from tasks.policy.policy import Policy

BUDGET = 0.02


class Walk:
    """A single weight that steps away from 0, and a divergence of it."""

    def __init__(self, divergence: Callable[[float], float]) -> None:
        self.weight = torch.zeros(1)
        weights = SimpleNamespace(masters={"w": self.weight})
        policy: Any = SimpleNamespace(weights=weights, stepped=lambda: None)
        self.region = Region(
            cast(Policy, policy), BUDGET, lambda: divergence(float(self.weight)), {"w": torch.zeros(1)}
        )

    def to(self, place: float) -> bool:
        self.weight.fill_(place)
        return self.region.stepped()


def quadratic(place: float) -> float:
    return place * place


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_the_stretch_that_leaves_ends_at_the_edge(power: float) -> None:
    walk = Walk(lambda place: abs(place) ** power)
    assert walk.to(0.25 * BUDGET ** (1 / power))
    assert not walk.to(5 * BUDGET ** (1 / power))
    assert 0.9 * BUDGET <= walk.region.kl <= BUDGET
    assert float(walk.weight) ** power == pytest.approx(walk.region.kl, rel=1e-4)


def test_steps_far_from_the_edge_are_not_measured() -> None:
    walk = Walk(quadratic)
    edge = math.sqrt(BUDGET)
    assert all(walk.to(edge * part) for part in (0.1, 0.2, 0.3, 0.4, 0.5))
    assert walk.region.measured == 1
    assert walk.region.settle()
    assert walk.region.kl == pytest.approx(0.25 * BUDGET, rel=1e-4)


def test_a_step_out_from_close_to_the_edge_is_taken_back_whole() -> None:
    walk = Walk(quadratic)
    near = math.sqrt(0.99 * BUDGET)
    assert walk.to(near)
    assert not walk.to(2 * near)
    assert float(walk.weight) == pytest.approx(near)
    assert walk.region.share == 0.0
    assert walk.region.measured == 2


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_divergence_that_is_not_finite_is_outside(broken: float) -> None:
    walk = Walk(lambda place: quadratic(place) if place < 1.0 else broken)
    assert not walk.to(8.0)
    assert walk.region.kl <= BUDGET
    assert math.isfinite(float(walk.weight))
    assert quadratic(float(walk.weight)) <= BUDGET
