"""SPO: a quadratic penalty on the ratio in place of the clip.

    loss_t = -rho_t A_t + |A_t| (rho_t - 1)^2 / (2 epsilon),   rho_t = exp(log pi - log mu)

Its gradient is that of -A_t rho_t w_t log pi with w_t = 1 - sign(A_t) (rho_t - 1) / epsilon: 0 on PPO's
boundary |rho - 1| = epsilon and beyond it a pull back, however far. Under mu the penalty is a chi-squared
divergence, so a rare token is held tightest. Xie et al. 2024, SPO, arXiv 2401.16025.
"""

from __future__ import annotations

from pydantic import PositiveFloat
from torch import Tensor

from algorithms.diagnostics import penalty_weight, policy_shift
from algorithms.divergence import log_ratio
from algorithms.terms import MetricLabel
from params.base import Config as Options

METRICS = (
    MetricLabel("weight", "Penalty: weight", "mean factor on a token's policy gradient; 1: no penalty"),
    MetricLabel("corrective", "Pulled back", "tokens whose factor is negative", percent=True),
    MetricLabel("amplified", "On the way back", "tokens whose factor is above 1", percent=True),
)


class Config(Options):
    """The strength of the penalty."""

    epsilon: PositiveFloat = 0.2
    """|ratio - 1| at which the penalty balances the advantage; a ratio, without unit."""


def token_loss(
    logp: Tensor, behaviour_logp: Tensor, advantage: Tensor, sequence: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """A ``TokenLoss`` that does not use ``sequence``. A log-ratio beyond +-20 has no gradient.

    Metrics [T]: those of ``penalty_weight`` for w and of ``policy_shift``.
    """
    excess = log_ratio(logp, behaviour_logp.detach()).expm1()
    loss = -(1.0 + excess) * advantage + advantage.abs() * excess.square() / (2.0 * config.epsilon)
    weight = 1.0 - advantage.sign() * excess.detach() / config.epsilon
    return loss, {**penalty_weight(weight), **policy_shift(logp, behaviour_logp)}
