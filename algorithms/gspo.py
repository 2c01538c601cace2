"""GSPO: the clipped surrogate on one ratio a response, the geometric mean of its tokens' ratios.

    s_i = exp(mean over t of (log pi_it - log mu_it))
    loss_it = -min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i)

Every token of a response carries the response's loss, so that ``aggregation: sequence_mean`` gives the
paper's objective, the mean over responses of min(...); the gradient goes through s_i into each of its tokens.
Zheng et al. 2025, GSPO, arXiv 2507.18071.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from algorithms import grpo
from algorithms.diagnostics import policy_shift
from algorithms.terms import MetricLabel, over_responses

WHOLE_RESPONSES = True
METRICS = (
    MetricLabel("sequence_ratio", "Ratio of responses", "mean over tokens of their response's ratio"),
    MetricLabel("sequence_ratio_max", "Largest ratio", "of a response"),
)


class Config(grpo.Config):
    """The trust region, on the ratio of a whole response: some thousand times narrower than a token's."""

    clip_low: Annotated[float, Field(ge=0.0, le=1.0)] = 3e-4
    """A response whose advantage is negative stops pushing once its ratio is below 1 - clip_low."""
    clip_high: Annotated[float, Field(ge=0.0)] = 4e-4
    """A response whose advantage is positive stops pulling once its ratio is above 1 + clip_high."""


def token_loss(
    logp: Tensor, behaviour_logp: Tensor, advantage: Tensor, sequence: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """A ``TokenLoss``; ``sequence`` [T] holds any integers, in any order.

    All tokens of a response must be in the call. Metrics [T]: ``sequence_ratio`` and its largest,
    ``clip_low``, ``clip_high`` and ``clip_fraction`` (by the response's ratio), those of ``policy_shift``.
    """
    mean = over_responses(logp - behaviour_logp.detach(), sequence)
    loss, metrics = grpo.token_loss(mean, torch.zeros_like(mean), advantage, sequence, config)
    ratio = metrics["ratio"]
    shift = policy_shift(logp, behaviour_logp)
    return loss, {**metrics, "sequence_ratio": ratio, "sequence_ratio_max": ratio, **shift}
