"""DAPO: GRPO's surrogate with a higher upper bound, averaged over all tokens.

    loss_t = -min(rho_t A_t, clip(rho_t, 1 - clip_low, 1 + clip_high) A_t),   A_i = (r_i - mean(r)) / std(r)

A token's loss is GRPO's with clip_high above clip_low; the token mean is ``aggregation: token_mean`` of the
method. Its other two parts, dynamic sampling and overlong shaping, belong to the rollouts.
Yu et al. 2025, DAPO, arXiv 2503.14476, equation 10.
"""

from __future__ import annotations

from torch import Tensor

from algorithms import grpo


class Config(grpo.Config):
    """The trust region; the defaults are DAPO's, with more room upward so that unlikely tokens can grow."""


def token_loss(
    logp: Tensor, behaviour_logp: Tensor, advantage: Tensor, sequence: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """A ``TokenLoss``, with the metrics of ``grpo``."""
    return grpo.token_loss(logp, behaviour_logp, advantage, sequence, config)
