"""LUFFY: a demonstration of each problem joins its group, and its tokens pull by a shaped likelihood.

    A_i = R_i - mean R  over the fresh answers and the demonstration, whose R is 1
    demonstration   -A f(pi(y_t)),   f(x) = x / (x + gamma),   gamma = 0.1, no clip
    fresh           the objective's;  both over one denominator

The weight of grad log pi is pi f'(pi) = pi gamma / (pi + gamma)^2: largest, 1/4, at pi = gamma, and small for
tokens that the policy already expects. Yan et al. 2025, LUFFY, arXiv 2504.14945, and its code: what wrote a
demonstration counts as certain of it (probability 1), 7 fresh answers and 1 demonstration make a group,
Dr.GRPO without deviation and length, an entropy coefficient of 0.001. Not said, and chosen: a demonstration
comes with its problem and counts as right unjudged; of several that fit into an answer one is drawn anew each
round.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from algorithms.drawing import Drawn, Entropy, Fresh, join_groups
from algorithms.replay_buffer import ReplayBuffer
from algorithms.terms import Batch, MetricLabel, Metrics, Signals, Term, aggregation_scale
from params.base import Config as Options

__all__ = ["shaped"]

DEMONSTRATIONS = True
METRICS = (
    MetricLabel("probability", "Demonstrations: probability", "mean pi of their tokens, without unit"),
    MetricLabel("weight", "Demonstrations: weight", "mean pi gamma / (pi + gamma)^2, at most 1/4"),
)


class Config(Options):
    """How demonstrations join."""

    gamma: Annotated[float, Field(gt=0.0)] = 0.1
    """The probability at which a token pulls the most."""
    demonstrations: PositiveInt = 1
    """Demonstrations that join each problem's group, or all where it has fewer."""


def draw(
    fresh: Fresh, buffer: ReplayBuffer, config: Config, generator: torch.Generator, entropy: Entropy
) -> Drawn:
    """Random demonstrations of each fresh problem, which join its group."""
    return Drawn(*join_groups(buffer.to_table(), fresh, config.demonstrations, generator), "denominator")


def shaped(logp: Tensor, gamma: float = 0.1) -> Tensor:
    """f(pi) = pi / (pi + gamma) [T] of log-probabilities [T], nats; stable for any of them."""
    return torch.sigmoid(logp - math.log(gamma))


def term(batch: Batch, config: Config) -> Term:
    """-A f(pi) on the demonstrations' tokens, in the objective's denominator.

    Metrics [t]: ``probability``, pi; ``weight``, pi f'(pi).
    """
    counted = batch.fresh if batch.counted is None else batch.counted
    mine = torch.zeros_like(counted) if batch.objective is None else counted & ~batch.objective
    scale = aggregation_scale(batch.sequence, counted[batch.sequence], batch.aggregation, batch.max_tokens)
    scale = torch.where(mine[batch.sequence] & (batch.advantage != 0), scale, torch.zeros_like(scale))

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        value = shaped(signals.logp, config.gamma)
        seen = value.detach()
        metrics = {"probability": signals.logp.detach().exp(), "weight": seen * (1.0 - seen)}
        return -value * batch.advantage[index], metrics

    return Term(name="luffy", scale=scale, token_loss=token_loss)
