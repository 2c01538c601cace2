"""Dr.GRPO: GRPO's surrogate without the two normalisers that favour some responses and some questions.

    loss_t = -min(rho_t A_t, clip(rho_t, 1 - clip_low, 1 + clip_high) A_t),   A_i = r_i - mean(r)

divided by a constant, responses x longest response: ``scale_by_std: false`` and ``aggregation: constant`` of
the method. A token's loss is GRPO's. Liu et al. 2025, Dr.GRPO, arXiv 2503.20783.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from algorithms import grpo


class Config(grpo.Config):
    """The trust region, which is the same in both directions."""

    clip_high: Annotated[float, Field(ge=0.0)] = 0.2
    """A token whose advantage is positive stops pulling once its ratio is above 1 + clip_high."""


def token_loss(
    logp: Tensor, behaviour_logp: Tensor, advantage: Tensor, sequence: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """A ``TokenLoss``, with the metrics of ``grpo``."""
    return grpo.token_loss(logp, behaviour_logp, advantage, sequence, config)
