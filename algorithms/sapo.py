"""SAPO: a smooth gate in place of the clip; a token's pull fades as its ratio leaves 1 and never stops short.

    loss_t = -f(rho_t) A_t,   f(rho) = (4 / tau) sigmoid(tau (rho - 1)),   rho_t = exp(log pi - log mu)

with tau = tau_positive where A > 0 and tau_negative otherwise. f'(rho) = sech^2(tau (rho - 1) / 2) is 1 at
rho = 1, so that on-policy the gradient is REINFORCE's. Qwen team 2025, SAPO, arXiv 2511.20347.
"""

from __future__ import annotations

import torch
from pydantic import PositiveFloat
from torch import Tensor

from algorithms.diagnostics import policy_shift
from algorithms.divergence import log_ratio
from algorithms.terms import MetricLabel
from params.base import Config as Options

METRICS = (MetricLabel("gate", "Gate", "mean share of a token's policy gradient that is left", percent=True),)


class Config(Options):
    """How fast the gate closes; temperatures are in units of 1 / ratio."""

    tau_positive: PositiveFloat = 1.0
    """Temperature where the advantage is positive; larger closes sooner."""
    tau_negative: PositiveFloat = 1.05
    """Temperature where the advantage is negative: closes a little sooner, as pushing down spreads noise."""


def token_loss(
    logp: Tensor, behaviour_logp: Tensor, advantage: Tensor, sequence: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """A ``TokenLoss`` that does not use ``sequence``.

    Metrics [T]: ``gate``, the factor f' in 0..1 that is left of its gradient; those of ``policy_shift``.
    """
    ratio = log_ratio(logp, behaviour_logp.detach()).exp()
    positive = torch.full_like(ratio, config.tau_positive)
    tau = torch.where(advantage > 0, positive, torch.full_like(ratio, config.tau_negative))
    gate = torch.sigmoid(tau * (ratio - 1.0))
    seen = gate.detach()
    return -4.0 / tau * gate * advantage, {
        "gate": 4.0 * seen * (1.0 - seen),
        **policy_shift(logp, behaviour_logp),
    }
