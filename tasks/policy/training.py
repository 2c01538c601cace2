"""Optimiser steps on a policy, and what they met: the loop of the update and of ERPD's two phases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from tasks.policy.gradient import Meter, Step, accumulate
from tasks.policy.optimiser import Optimiser
from tasks.policy.policy import Policy


@dataclass
class Training:
    """Takes steps one by one; ask for its ``metrics`` afterwards."""

    policy: Policy
    optimiser: Optimiser
    temperature: float
    meter: Meter = field(default_factory=Meter)
    """What the steps that were taken met."""
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    """Of each step's gradient, before clipping."""
    rate: float | None = None
    """Of the last step."""
    refused: int = 0
    """Steps whose loss or gradient was not finite."""
    idle: int = 0
    """Steps with nothing to learn."""

    def gradient(
        self, step: Step, tell: Callable[[int], None] = lambda responses: None, apart: bool = False
    ) -> tuple[Meter, Tensor] | None:
        """As ``gradient.accumulate``; None where there is nothing to learn."""
        if step.live():
            return accumulate(self.policy, step, self.temperature, tell, apart)
        self.idle += 1
        return None

    def take(self, meter: Meter) -> bool:
        """One step on the gradients that are there; False where it was refused. Raises ``NotFinite``."""
        rate, norm = self.optimiser.rate(), self.optimiser.step(meter.loss)
        if norm is None:
            self.refused += 1
            return False
        self.policy.stepped()
        self.meter.merge(meter)
        self.losses.append(meter.loss)
        self.norms.append(norm)
        self.rate = rate
        return True

    def metrics(self) -> dict[str, float | None]:
        """Means over the steps; None where there was no step."""
        taken = len(self.norms)
        return {
            **self.meter.means(),
            "loss": self.meter.loss / taken if taken else None,
            "grad_norm": sum(self.norms) / taken if taken else None,
            "steps": taken,
            "refused_steps": self.refused,
            "trained_tokens": self.meter.tokens,
        }
