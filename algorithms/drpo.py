"""DRPO and its family: a penalty on the policy's move, weighted by the advantage, in place of a mask.

    loss_t = -rho_t A_t + |A_t| Omega_t / (2 delta),   rho_t = exp(log pi - log mu)

    penalty       Omega              w in the gradient, that of -A_t rho_t w_t log pi
    probability   mu (rho - 1)^2     1 - sign(A) (pi - mu) / delta           DRPO, equations 8 to 11
    ratio         (rho - 1)^2        1 - sign(A) (rho - 1) / delta           SPO, arXiv 2401.16025
    k1            -log rho           1 + sign(A) / (2 delta rho)             equation 12
    k3            rho - 1 - log rho  1 - sign(A) (rho - 1) / (2 delta rho)   equation 13
    tv            |rho - 1|          1 - sign(A) sign(rho - 1) / (2 delta)   equation 14
    log_square    (log rho)^2 / 2    1 - sign(A) log(rho) / (2 delta rho)    equation 25, as in Kimi's

DRPO's w lies in [1 - 1/delta, 1 + 1/delta]: it is 0 on DPPO's boundary |pi - mu| = delta, negative beyond it
and above 1 on the way back. The published delta of 12.5 puts that boundary out of reach, as |pi - mu| <= 1.
Equations are those of DRPO, arXiv 2606.09821; the weights follow from them. Ours: ``departing``, and that a
token without advantage has no penalty even where the advantage does not weigh it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from algorithms.diagnostics import penalty_weight, policy_shift
from algorithms.divergence import kl_k3, log_ratio
from algorithms.terms import MetricLabel
from params.base import Config as Options

METRICS = (
    MetricLabel("weight", "Penalty: weight", "mean factor on a token's policy gradient; 1: no penalty"),
    MetricLabel("corrective", "Pulled back", "tokens whose factor is negative", percent=True),
    MetricLabel("amplified", "On the way back", "tokens whose factor is above 1", percent=True),
)

_Penalty = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(log rho, rho - 1, mu) to Omega and d Omega / d rho."""

_PENALTIES: dict[str, _Penalty] = {
    "probability": lambda log, excess, mu: (mu * excess.square(), 2.0 * mu * excess),
    "ratio": lambda log, excess, mu: (excess.square(), 2.0 * excess),
    "k1": lambda log, excess, mu: (-log, -(-log).exp()),
    "k3": lambda log, excess, mu: (kl_k3(torch.zeros_like(log), log), -(-log).expm1()),
    "tv": lambda log, excess, mu: (excess.abs(), excess.sign()),
    "log_square": lambda log, excess, mu: (0.5 * log.square(), log * (-log).exp()),
}


class Config(Options):
    """The penalty, its strength, and the tokens that it is put on."""

    delta: PositiveFloat = 0.15
    """Where the penalty balances the advantage: |pi - mu|, a probability, for ``probability``, of which 1 or
    more is never reached, and |rho - 1| for ``ratio``. The others weigh 1 / (2 delta) all the same."""
    penalty: Literal["probability", "ratio", "k1", "k3", "tv", "log_square"] = "probability"
    """What is penalised: DRPO's, SPO's, and those that the paper compares with them."""
    weighted_by_advantage: bool = True
    """Multiply the penalty by |A|, so that one move balances every advantage; false: by 1."""
    where: Literal["everywhere", "outside", "departing"] = "everywhere"
    """``outside``: only where |pi - mu| exceeds ``boundary``, whatever the direction (Mask-DRPO).
    ``departing``: of those only the tokens that the advantage takes further, which DPPO would mask."""
    boundary: PositiveFloat | None = None
    """Not for ``everywhere``: |pi - mu| beyond which a token is penalised, a probability; null: delta."""


def token_loss(
    logp: Tensor, behaviour_logp: Tensor, advantage: Tensor, sequence: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """A ``TokenLoss`` that does not use ``sequence``. A log-ratio beyond +-20 has no gradient.

    Metrics [T]: those of ``penalty_weight`` for w and of ``policy_shift``.
    """
    behaviour_logp = behaviour_logp.detach()
    moved, mu = log_ratio(logp, behaviour_logp), behaviour_logp.exp()
    excess = moved.expm1()
    penalty, slope = _PENALTIES[config.penalty](moved, excess, mu)
    size = advantage.abs()
    strength = (size if config.weighted_by_advantage else advantage.sign().abs()) / (2.0 * config.delta)
    strength = strength * _penalised(logp.detach().exp() - mu, advantage, config)
    relative = strength / torch.where(size > 0, size, torch.ones_like(size))
    weight = 1.0 - advantage.sign() * relative * slope.detach()
    loss = -(1.0 + excess) * advantage + strength * penalty
    return loss, {**penalty_weight(weight), **policy_shift(logp, behaviour_logp)}


def _penalised(shift: Tensor, advantage: Tensor, config: Config) -> Tensor:
    """[T]: 1 on the tokens that have a penalty, by their ``shift`` pi - mu; 0 elsewhere."""
    if config.where == "everywhere":
        return torch.ones_like(shift)
    distance = shift.abs() if config.where == "outside" else advantage.sign() * shift
    return (distance > (config.delta if config.boundary is None else config.boundary)).to(shift.dtype)
