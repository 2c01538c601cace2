"""A penalty on the divergence from the base model: coefficient times the mean of k3 over the fresh tokens.

    k3 = exp(d) - 1 - d,   d = log pi_0 - log pi

Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, equation 4: GRPO's KL term. pi_0 is the named base model of
the run, never the policy of the round. k3 estimates KL(pi | pi_0) for samples of pi, without bias and never
negative (Schulman 2020); its gradient is taken as it stands, as GRPO does.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from algorithms.divergence import kl_k3
from algorithms.terms import Batch, MetricLabel, Metrics, Signals, Term, aggregation_scale
from params.base import Config as Options

METRICS = (MetricLabel("kl", "Penalty: KL to the base", "k3 at the fresh tokens, nats per token"),)


class Config(Options):
    """How strong the penalty is."""

    coefficient: Annotated[float, Field(ge=0.0)] = 0.01
    """Loss a nat of mean divergence a token; DeepSeekMath has 0.04."""


def reference(config: Config) -> bool:
    """Ask for the base's log-probabilities."""
    return config.coefficient > 0.0


def term(batch: Batch, config: Config) -> Term:
    """A mean over the fresh tokens of responses that count, those of groups that teach nothing included.

    Metrics [t]: ``kl``, k3 in nats.
    """
    base = batch.reference_logp
    if base is None and config.coefficient:
        raise ValueError("kl_to_base: the batch has no log-probabilities of the base")
    chosen = batch.fresh if batch.counted is None else batch.fresh & batch.counted
    scale = aggregation_scale(batch.sequence, chosen[batch.sequence], "token_mean", batch.max_tokens)

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        assert base is not None
        divergence = kl_k3(signals.logp, base[index])
        return divergence, {"kl": divergence.detach()}

    return Term("kl_to_base", config.coefficient * scale, token_loss)
