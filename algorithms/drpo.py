"""DRPO: a quadratic penalty on the shift in probability, weighted by the advantage, in place of a mask.

    loss_t = -rho_t A_t + |A_t| mu_t (rho_t - 1)^2 / (2 delta),   rho_t = exp(log pi - log mu)

As mu (rho - 1)^2 = (pi - mu)^2 / mu, its gradient is that of -A_t rho_t w_t log pi with

    w_t = 1 - sign(A_t) (pi_t - mu_t) / delta   in   [1 - 1/delta, 1 + 1/delta]:

0 on DPPO's boundary |pi - mu| = delta, negative beyond it, above 1 on the way back. It is SPO with
epsilon = delta / mu. DRPO, arXiv 2606.09821, equations 8 and 9. The published delta of 12.5 puts the boundary
out of reach, since |pi - mu| <= 1.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from algorithms import spo
from algorithms.diagnostics import penalty_weight, policy_shift
from algorithms.divergence import log_ratio
from params.base import Config as Options

METRICS = spo.METRICS


class Config(Options):
    """The strength of the penalty and the tokens that it is put on."""

    delta: PositiveFloat = 0.15
    """|pi - mu| at which the penalty balances the advantage; a probability. 1 or more is never reached."""
    where: Literal["everywhere", "outside"] = "everywhere"
    """``outside``: only on tokens that DPPO's mask would drop; w is 1 on all others (our reconstruction)."""
    boundary: PositiveFloat | None = None
    """``outside`` only: |pi - mu| beyond which a departing token is penalised, a probability; null: delta."""


def token_loss(
    logp: Tensor, behaviour_logp: Tensor, advantage: Tensor, sequence: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """A ``TokenLoss`` that does not use ``sequence``. A log-ratio beyond +-20 has no gradient.

    Metrics [T]: those of ``penalty_weight`` for w and of ``policy_shift``.
    """
    behaviour_logp = behaviour_logp.detach()
    excess = log_ratio(logp, behaviour_logp).expm1()
    penalty = advantage.abs() * behaviour_logp.exp() * excess.square() / (2.0 * config.delta)
    departure = advantage.sign() * (logp.detach().exp() - behaviour_logp.exp())
    weight = 1.0 - departure / config.delta
    if config.where == "outside":
        outside = departure > (config.delta if config.boundary is None else config.boundary)
        penalty = torch.where(outside, penalty, torch.zeros_like(penalty))
        weight = torch.where(outside, weight, torch.ones_like(weight))
    loss = -(1.0 + excess) * advantage + penalty
    return loss, {**penalty_weight(weight), **policy_shift(logp, behaviour_logp)}
