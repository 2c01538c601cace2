"""DyJR: recent rollouts as a reference to stay near to, by a Jensen-Shannon divergence, not as a gradient.

    loss = objective(fresh) + coefficient * mean over replayed tokens of 2 f(r_t),   r_t = pi(y_t) / mu(y_t)
    f(r) = (r ln r - (r + 1) ln((r + 1) / 2)) / 2,  gradient 2 w(r) grad log pi, w(r) = r ln(2r / (r + 1)) / 2

mu is the log-probability that the sampler gave at birth; it is never computed again. The buffer is that of
``params.schema.Replay``: first in first out, a largest age, and a size that follows the model's drift.

DyJR is arXiv 2603.16157, of which we could read the abstract and one figure: a time-sensitive buffer (FIFO,
adaptive sizing) and a Jensen-Shannon constraint towards recent trajectories, with a forward-KL ablation. The
token loss 2 f and the coefficient's scale are those of the code of its predecessor DPH-RL, arXiv 2509.07430
(``js_low_var``). Everything else here is our reconstruction: the uniform draw, its share, the ratio cap, the
binary and the one-sided form.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from algorithms.divergence import binary_jsd, jensen_shannon, kl_k3
from algorithms.drawing import Drawn, Entropy, Fresh
from algorithms.replay_buffer import ReplayBuffer
from algorithms.terms import Batch, MetricLabel, Metrics, Signals, Term, aggregation_scale
from params.base import Config as Options

__all__ = ["penalty"]

MEASURES_DRIFT = True
METRICS = (
    MetricLabel("js", "Distance from the buffer", "Jensen-Shannon divergence, nats per replayed token"),
    MetricLabel("js_doubled", "Twice the distance", "2 f, the scale of DPH-RL's code", chart=False),
    MetricLabel("penalty", "Constraint", "what is minimised, nats per token, before its coefficient"),
)


class Config(Options):
    """The constraint and how much of the buffer it sees."""

    coefficient: Annotated[float, Field(ge=0.0)] = 0.1
    """Weight of the constraint, on the scale of twice the divergence (``forward_kl``: of the divergence);
    DPH-RL has 0.05 to 0.2 (0.01 to 0.05). 0: no constraint and no forward pass over replayed responses."""
    form: Literal["jensen_shannon", "binary", "one_sided", "forward_kl"] = "jensen_shannon"
    """``binary``: of "this token or another", bounded by ln 2. ``one_sided``: only where the policy has moved
    away from a token. ``forward_kl``: the k3 estimate of KL(mu || pi), DyJR's ablation."""
    ratio_cap: PositiveFloat | None = None
    """Cap of the ratio in the gradient of the Jensen-Shannon forms, which grows without bound in it."""
    share: Annotated[float, Field(ge=0.0)] = 0.2
    """Replayed responses as a share of the fresh ones."""
    together: bool = True
    """Draw responses to one problem together, so that its prompt is computed once for all of them. Either way
    every row of the buffer is as likely to be drawn."""


def draw(
    fresh: Fresh, buffer: ReplayBuffer, config: Config, generator: torch.Generator, entropy: Entropy
) -> Drawn:
    """Uniformly, for the term alone (our reconstruction)."""
    rows = buffer.sample(round(config.share * len(fresh.problem)), generator, config.together)
    return Drawn(rows, torch.full((rows.num_rows,), -1), "aside")


def term(batch: Batch, config: Config) -> Term:
    """The constraint, a mean over the batch's replayed tokens.

    Metrics [t]: ``js``, the divergence f in nats, whatever the form; ``js_doubled``, 2 f; ``penalty``, what
    is minimised. Its drift is ``js``.
    """
    replayed = ~batch.fresh[batch.sequence]
    scale = config.coefficient * aggregation_scale(batch.sequence, replayed, "token_mean", batch.max_tokens)

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        birth = batch.behaviour_logp[index]
        loss = penalty(signals.logp, birth, config)
        js = jensen_shannon(signals.logp.detach(), birth)
        return loss, {"penalty": loss, "js": js, "js_doubled": 2.0 * js}

    return Term(name="dyjr", scale=scale, token_loss=token_loss, drift="js")


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
