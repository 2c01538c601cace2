"""DPPO: a policy gradient from which tokens are masked once the policy has moved too far in probability.

    loss_t = -A_t sg[min(rho_t, ratio_cap)] M_t log pi_t,   rho_t = exp(log pi - log mu)
    M_t = 0 if (A_t > 0 and pi > mu and D_t > delta_high) or (A_t < 0 and pi < mu and D_t > delta_low), else 1

D is the total variation or KL(mu || pi) between Bernoulli distributions of the sampled token, or over the
behaviour policy's top tokens, the sampled token and the rest. A ratio clip cuts a rare token that went from
1e-5 to 1e-3 and lets 0.99 fall to 0.80; this does the opposite. A move back toward mu is never masked. mu is
the sampler's own. DPPO, arXiv 2602.04879.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from algorithms.diagnostics import clipped, policy_shift
from algorithms.divergence import TopK, binary_kl, binary_tv, top_kl, top_tv
from algorithms.terms import MetricLabel
from params.base import Config as Options

METRICS = (
    MetricLabel("divergence", "Divergence", "mean over tokens: a probability (TV) or nats (KL)"),
    MetricLabel("divergence_max", "Largest divergence", "of a token: a probability (TV) or nats (KL)"),
)

TV_LIMIT = 0.15
KL_LIMIT = 0.05
"""Published thresholds; KL <= 0.05 implies TV <= 0.158."""


class Config(Options):
    """The divergence, how much of it is allowed, and the cap of the importance weight."""

    divergence: Literal["binary_tv", "binary_kl", "top_tv", "top_kl"] = "binary_tv"
    """What measures the move: total variation (a probability) or KL (nats), of one token or the top ones."""
    delta_low: Annotated[float, Field(ge=0.0)] | None = None
    """Largest divergence of a falling token with a negative advantage; null: 0.15 (TV) or 0.05 nats (KL)."""
    delta_high: Annotated[float, Field(ge=0.0)] | None = None
    """Largest divergence of a rising token with a positive advantage; null: as for ``delta_low``."""
    ratio_cap: PositiveFloat = 10.0
    """Cap of the importance weight pi / mu."""
    k: PositiveInt = 20
    """Tokens a position that ``top_tv`` and ``top_kl`` look at."""


def top_k(config: Config) -> int:
    """How many of the behaviour policy's likeliest tokens ``token_loss`` wants; 0 for the binary forms."""
    return config.k if config.divergence.startswith("top_") else 0


def token_loss(
    logp: Tensor,
    behaviour_logp: Tensor,
    advantage: Tensor,
    sequence: Tensor,
    config: Config,
    top: TopK | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A ``TokenLoss`` that does not use ``sequence``; raises ``ValueError`` where it lacks ``top``.

    Metrics [T]: ``divergence`` and its largest, ``clip_low``, ``clip_high`` and ``clip_fraction``, 1 where a
    token is masked, and those of ``policy_shift``.
    """
    now, before = logp.detach(), behaviour_logp.detach()
    moved = _divergence(now, before, config, top)
    limit = TV_LIMIT if config.divergence.endswith("_tv") else KL_LIMIT
    lowest = limit if config.delta_low is None else config.delta_low
    highest = limit if config.delta_high is None else config.delta_high
    low = (advantage < 0) & (now < before) & (moved > lowest)
    high = (advantage > 0) & (now > before) & (moved > highest)
    shift = policy_shift(logp, behaviour_logp)
    weight = shift["ratio"].clamp(max=config.ratio_cap).masked_fill(low | high, 0.0)
    loss = -advantage * weight * logp
    return loss, {"divergence": moved, "divergence_max": moved, **clipped(low, high, loss), **shift}


def _divergence(logp: Tensor, behaviour_logp: Tensor, config: Config, top: TopK | None) -> Tensor:
    if config.divergence == "binary_tv":
        return binary_tv(logp, behaviour_logp)
    if config.divergence == "binary_kl":
        return binary_kl(behaviour_logp, logp)
    if top is None:
        raise ValueError(
            f"dppo: divergence {config.divergence} needs the top {config.k} tokens; none were given"
        )
    return (top_tv if config.divergence == "top_tv" else top_kl)(logp, behaviour_logp, top)
