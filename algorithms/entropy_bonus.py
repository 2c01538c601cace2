"""An entropy bonus: minus the mean entropy of the policy at the fresh tokens, times a coefficient.

Williams and Peng 1991, "Function optimization using connectionist reinforcement learning algorithms"; Mnih
et al. 2016, A3C, arXiv 1602.01783, section 4. The entropy is over the whole vocabulary, at the training
temperature.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from algorithms.terms import Batch, MetricLabel, Metrics, Signals, Term, aggregation_scale
from params.base import Config as Options

METRICS = (MetricLabel("entropy", "Bonus: entropy", "of the policy at the fresh tokens, nats per token"),)


class Config(Options):
    """How strong the bonus is."""

    coefficient: Annotated[float, Field(ge=0.0)] = 0.001
    """Loss a nat of mean entropy."""


def term(batch: Batch, config: Config) -> Term:
    """A mean over the fresh tokens of responses that count, those of groups that teach nothing included."""
    chosen = batch.fresh if batch.counted is None else batch.fresh & batch.counted
    scale = aggregation_scale(batch.sequence, chosen[batch.sequence], "token_mean", batch.max_tokens)

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        if signals.entropy is None:
            raise ValueError("entropy_bonus: the forward pass gave no entropies")
        return -signals.entropy, {"entropy": signals.entropy}

    return Term("entropy_bonus", config.coefficient * scale, token_loss, needs_entropy=True)
