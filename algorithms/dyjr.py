"""DyJR: recent right answers as a reference to stay near to by a divergence, not as a gradient to follow.

One step t of Algorithm 1, and where each line of it is:

    sample G answers to each query; r in {0, 1}; C(query) = right answers of G     tasks.rollout
    evict what is older than M steps; admit by falling C up to eta * N; store      ``admission``, tasks.replay
    draw uniformly from the buffer, which holds this step's answers already        ``draw``, tasks.update
    one joint update of L_GRPO(fresh) + alpha * L_JS(drawn)                        ``term``

    L_JS = mean over the drawn sequences of the mean over their tokens of f(u_t),   u_t = pi(y_t) / mu(y_t)
    f(u) = u ln u - (u + 1) ln((u + 1) / 2)

mu is the log-probability that the sampler gave at birth; it is never computed again. f is twice the unbiased
estimate of the Jensen-Shannon divergence: 2 ``divergence.jensen_shannon``.

DyJR, arXiv 2603.16157v1: Algorithm 1; admission, equation 6; the value of a token, 7 and 8; the mean, 9. The
buffer's largest age M is ``replay.max_age``. The paper does not say, and we chose: the count of admissions is
the least that reaches eta * N; within a stratum each query's first right answer comes before any query's
second; rows are drawn without replacement and split evenly over the optimiser steps of a round; the log-ratio
is clamped to +-20. A step of the paper is one batch of rollouts with four optimiser steps, and so is ours a
round, whatever ``update.minibatches`` is. Ours alone: ``together``, ``ratio_cap``, ``aggregation`` other than
``sequence_mean``, the binary and the one-sided form.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from algorithms.correct import CORRECT
from algorithms.divergence import binary_jsd, jensen_shannon, kl_k3
from algorithms.drawing import Drawn, Entropy, Fresh, reached
from algorithms.replay_buffer import ReplayBuffer
from algorithms.terms import Batch, MetricLabel, Metrics, Signals, Term, aggregation_scale
from params.base import Config as Options

__all__ = ["admission", "fill_rate", "penalty"]

MEASURES_DRIFT = True
METRICS = (
    MetricLabel("js", "Distance from the buffer", "Jensen-Shannon divergence, nats per replayed token"),
    MetricLabel("js_doubled", "Twice the distance", "2 f, the paper's scale", chart=False),
    MetricLabel("penalty", "Constraint", "what is minimised, nats per token, before its coefficient"),
)


class Filling(Options):
    """How the buffer is filled, and how much of it an update sees."""

    share: Annotated[float, Field(ge=0.0)] = 0.125
    """Replayed responses as a share of the fresh ones: 512 beside 4,096."""
    warm_up_steps: Annotated[int, Field(ge=0)] = 20
    """First rounds, in which ``warm_up_fill`` holds."""
    warm_up_fill: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """Answers of a round that may enter, as a share of all of them, while entropy collapses."""
    fill: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """The same afterwards."""
    together: bool = False
    """Draw responses to one problem together, so that its prompt is computed once for all of them (ours).
    Either way every row of the buffer is as likely to be drawn."""


class Config(Filling):
    """The constraint beside that."""

    coefficient: Annotated[float, Field(ge=0.0)] = 0.05
    """alpha, on the scale of twice the divergence (``forward_kl``: of the divergence). 0: no constraint and
    no forward pass over replayed responses."""
    form: Literal["jensen_shannon", "binary", "one_sided", "forward_kl"] = "jensen_shannon"
    """``forward_kl``: the k3 estimate of KL(mu || pi), DyJR's ablation. Ours: ``binary``, of "this token or
    another", bounded by ln 2; ``one_sided``, only where the policy has moved away from a token."""
    aggregation: Literal["sequence_mean", "token_mean"] = "sequence_mean"
    """Mean over the sequences of their token means (equation 9), or over all tokens."""
    ratio_cap: PositiveFloat | None = None
    """Cap of the ratio in the gradient of the Jensen-Shannon forms, which grows without bound in it."""


def fill_rate(step: int, config: Filling) -> float:
    """eta: the share of a step's answers that may enter the buffer; steps are counted from 1."""
    return config.warm_up_fill if step <= config.warm_up_steps else config.fill


def admission(reward: Tensor, group: Tensor, rate: float, eligible: Tensor | None = None) -> list[int]:
    """Confidence-stratified descending admission (equation 6): positions among S answers, in their order.

    ``reward`` [S], NaN where there is none; ``group`` [S], one number a query. The right answers of queries
    with the most right answers come first, then those with one less, and so on, until at least ``rate`` * S
    are in or none is left. ``eligible`` [S] bool: others count for a query's confidence and do not enter.
    """
    right = torch.as_tensor(reward) >= CORRECT
    may = right if eligible is None else right & eligible
    groups = torch.as_tensor(group).tolist()
    confidence: dict[int, int] = {}
    for query, correct in zip(groups, right.tolist(), strict=True):
        confidence[query] = confidence.get(query, 0) + correct
    met: dict[int, int] = {}
    places = []
    for position in may.nonzero().flatten().tolist():
        query = groups[position]
        met[query] = met.get(query, 0) + 1
        places.append((-confidence[query], met[query], position))
    return [position for _, _, position in sorted(places)[: reached(rate, len(groups))]]


def admit(reward: Tensor, group: Tensor, eligible: Tensor, round: int, config: Filling) -> list[int]:
    """The answers of a round that enter the buffer."""
    return admission(reward, group, fill_rate(round, config), eligible)


def draw(
    fresh: Fresh, buffer: ReplayBuffer, config: Filling, generator: torch.Generator, entropy: Entropy
) -> Drawn:
    """Uniformly, without replacement, for the term alone."""
    rows = buffer.sample(reached(config.share, len(fresh.problem)), generator, config.together)
    return Drawn(rows, torch.full((rows.num_rows,), -1), "aside")


def term(batch: Batch, config: Config) -> Term:
    """The constraint on the batch's replayed tokens.

    Metrics [t]: ``js``, the divergence in nats, whatever the form; ``js_doubled``, twice that; ``penalty``,
    what is minimised. Its drift is ``js``.
    """
    replayed = ~batch.fresh[batch.sequence]
    scale = config.coefficient * aggregation_scale(
        batch.sequence, replayed, config.aggregation, batch.max_tokens
    )

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        birth = batch.behaviour_logp[index]
        loss = penalty(signals.logp, birth, config)
        js = jensen_shannon(signals.logp.detach(), birth)
        return loss, {"penalty": loss, "js": js, "js_doubled": 2.0 * js}

    return Term(name="dyjr", scale=scale, token_loss=token_loss, drift="js", by_age=("penalty",))


def penalty(logp: Tensor, birth_logp: Tensor, config: Config) -> Tensor:
    """What is minimised at each of T tokens, differentiable in ``logp`` [T]; ``birth_logp`` [T] is fixed."""
    if config.form == "forward_kl":
        return kl_k3(birth_logp, logp)
    if config.form == "binary":
        return 2.0 * binary_jsd(logp, birth_logp)
    doubled = 2.0 * jensen_shannon(logp, birth_logp, config.ratio_cap)
    if config.form == "one_sided":
        return torch.where(logp.detach() < birth_logp, doubled, torch.zeros_like(doubled))
    return doubled
