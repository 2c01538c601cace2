"""CISPO: the importance weight is clipped and held constant, so that every token keeps a gradient.

    loss_t = -sg[clip(rho_t, 1 - clip_low, 1 + clip_high)] A_t log pi_t,   rho_t = exp(log pi - log mu)

MiniMax 2025, MiniMax-M1, arXiv 2506.13585, equation 4. Two conventions are in use, which differ by 1. verl's
takes offsets from 1, as above. TRL's, after ScaleRL (arXiv 2510.13786), gives the upper bound itself and has
no lower one: ``ratio_cap: 5.0`` is the weight min(rho_t, 5), in verl's terms clip_high 4 and clip_low 1.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat
from torch import Tensor

from algorithms.diagnostics import clipped, policy_shift
from params.base import Config as Options


class Config(Options):
    """The bounds of the importance weight; ratios have no unit."""

    clip_low: Annotated[float, Field(ge=0.0)] = 1.0
    """The weight is at least 1 - clip_low; 1 or more: no lower bound, as in the paper."""
    clip_high: Annotated[float, Field(ge=0.0)] = 0.28
    """The weight is at most 1 + clip_high."""
    ratio_cap: PositiveFloat | None = None
    """The weight's upper bound itself, without a lower one; clip_low and clip_high are then not read."""

    def bounds(self) -> tuple[float, float]:
        """The least and the largest weight."""
        return (0.0, self.ratio_cap) if self.ratio_cap else (1.0 - self.clip_low, 1.0 + self.clip_high)


def token_loss(
    logp: Tensor, behaviour_logp: Tensor, advantage: Tensor, sequence: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """A ``TokenLoss`` that does not use ``sequence``.

    Metrics [T]: ``clip_low``, ``clip_high`` and ``clip_fraction``, 1 where the weight (not the gradient) is
    cut, and those of ``policy_shift``.
    """
    lowest, highest = config.bounds()
    shift = policy_shift(logp, behaviour_logp)
    ratio = shift["ratio"]
    loss = -ratio.clamp(lowest, highest) * advantage * logp
    acting = advantage != 0
    low, high = acting & (ratio < lowest), acting & (ratio > highest)
    return loss, {**clipped(low, high, loss), **shift}
