"""The trust region of ERPD's student: how far it has come from the round's base, and where its edge is.

A divergence over the whole vocabulary costs a forward pass over the answers and two of the head. It grows
about like the square of the way that the weights have come, so that it is measured only after steps that may
have left the budget, and the edge is found in a few tries. Our reconstruction of ERPD's trust region.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tasks.policy.policy import Policy

Weights = dict[str, Tensor]

CAUTION = 1.1
"""Measure where the divergence's root may be this many times what the way says."""
CLOSE = 0.95
"""Of the budget: near enough to its edge."""
TRIES = 6
"""Measurements at most, to find the edge."""


@dataclass
class Region:
    """A student on its way out of its base, and the farthest of its weights that are known to be inside."""

    policy: Policy
    budget: float
    """Largest divergence from the base, in nats per token."""
    measure: Callable[[], float]
    """The divergence of the weights that ``policy`` holds."""
    origin: Weights
    """The base's."""
    kl: float = 0.0
    """Of the weights that are kept."""
    share: float = 1.0
    """Of the last stretch between two measurements that was taken; 1 unless it led out."""
    measured: int = 0
    """How often."""
    kept: Weights = field(init=False)
    _known: bool = True
    """Whether ``policy`` holds the weights that are kept."""

    def __post_init__(self) -> None:
        self.kept = self.origin

    def stepped(self) -> bool:
        """After a step. False where it led out; ``policy`` then stands at the edge."""
        self._known = False
        rate = math.sqrt(self.kl) / self._way(self.kept) if self.kl else math.inf
        near = CAUTION * rate * self._way(self.policy.weights.masters) >= math.sqrt(self.budget)
        return self.settle() if near else True

    def settle(self) -> bool:
        """Keep the weights as they are if they are inside; else go back to the edge, and say False."""
        if self._known:
            return True
        kl = self._measure()
        if kl <= self.budget:
            self._keep(kl)
            return True
        self._shorten(kl)
        return False

    def enter(self) -> bool:
        """The same for a student of whose divergence nothing is known here: back is back to the base."""
        self.kept, self.kl, self._known = self.origin, 0.0, False
        return self.settle()

    def _shorten(self, outside: float) -> None:
        """Back along the straight line to what is kept, until within the budget.

        The divergence's root is nearly linear there. False position finds the edge; the weight of the end of
        the bracket that stays is halved each time, so that it does not stick. Where what is outside is not
        finite, bisection.
        """
        near, far = self.kept, copied(self.policy)
        goal = math.sqrt(self.budget * (1.0 + CLOSE) / 2.0)
        low, high, inside, beyond = 0.0, 1.0, goal - math.sqrt(self.kl), math.sqrt(outside) - goal
        for _ in range(TRIES):
            if self.kl >= CLOSE * self.budget:
                break
            part = inside / (inside + beyond) if math.isfinite(beyond) else 0.5
            middle = low + part * (high - low)
            laid(self.policy, {name: torch.lerp(near[name], far[name], middle) for name in near})
            kl = self._measure()
            if kl <= self.budget:
                low, inside, beyond = middle, goal - math.sqrt(kl), beyond / 2.0
                self._keep(kl)
            else:
                high, beyond, inside = middle, math.sqrt(kl) - goal, inside / 2.0
        laid(self.policy, self.kept)
        self.share = low

    def _keep(self, kl: float) -> None:
        self.kept, self.kl, self._known = copied(self.policy), kl, True

    @torch.no_grad()
    def _way(self, weights: Weights) -> float:
        """The straight way from the base to these weights."""
        return math.sqrt(sum(float((weights[n] - start).square().sum()) for n, start in self.origin.items()))

    def _measure(self) -> float:
        self.measured += 1
        return self.measure()


def copied(policy: Policy) -> Weights:
    """What trains in ``policy``, as it is now."""
    return {name: master.detach().clone() for name, master in policy.weights.masters.items()}


def laid(policy: Policy, weights: Weights) -> None:
    """Lay those of ``copied`` into ``policy``."""
    with torch.no_grad():
        for name, master in policy.weights.masters.items():
            master.copy_(weights[name])
    policy.stepped()
