"""GRPO: the clipped surrogate on group-relative advantages, with a higher upper bound where one is asked for.

    loss_t = -min(rho_t A_t, clip(rho_t, 1 - clip_low, 1 + clip_high) A_t),   rho_t = exp(log pi - log mu)
    with dual_clip c, where A_t < 0:   min(loss_t, -c A_t)

Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, equation 3 (without its KL term, which is a term of its
own); separate bounds ("clip-higher") from Yu et al. 2025, DAPO, arXiv 2503.14476, equation 10; the dual clip
from Ye et al. 2020, arXiv 1912.09729, equation 5.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from algorithms.diagnostics import clipped, policy_shift
from algorithms.divergence import log_ratio
from params.base import Config as Options


class Config(Options):
    """The trust region."""

    clip_low: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """A token whose advantage is negative stops pushing once its ratio is below 1 - clip_low."""
    clip_high: Annotated[float, Field(ge=0.0)] = 0.28
    """A token whose advantage is positive stops pulling once its ratio is above 1 + clip_high."""
    dual_clip: Annotated[float, Field(gt=1.0)] | None = None
    """A token whose advantage is negative stops pushing once its ratio is above this, too; null: never."""


def token_loss(
    logp: Tensor, behaviour_logp: Tensor, advantage: Tensor, sequence: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """A ``TokenLoss`` that does not use ``sequence``.

    Metrics [T]: those of ``policy_shift``, and 1 where a bound takes away the token's gradient: ``clip_low``
    (of a negative advantage), ``clip_high``, and ``clip_fraction`` for either. With one step a batch no ratio
    leaves 1 by much and all three stay near 0, as they should.
    """
    ratio = log_ratio(logp, behaviour_logp.detach()).exp()
    bounded = ratio.clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    loss = -torch.minimum(ratio * advantage, bounded * advantage)
    seen = ratio.detach()
    low = (advantage < 0) & (seen < 1.0 - config.clip_low)
    if config.dual_clip is not None:
        loss = torch.where(advantage < 0, torch.minimum(loss, -config.dual_clip * advantage), loss)
        low |= (advantage < 0) & (seen > config.dual_clip)
    high = (advantage > 0) & (seen > 1.0 + config.clip_high)
    return loss, {**clipped(low, high, loss), **policy_shift(logp, behaviour_logp)}
