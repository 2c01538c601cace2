"""Ours, beside ERPD's teachers: an answer's summed log-ratio regressed on its reward.

With s = beta sum_t log pi(y_t) / pi_0(y_t) of a response of reward r,

    outcome_regression   (s - (r - V*))^2,    V* = beta log E_pi_0 exp(r / beta)

has the optimum pi_0 exp((r - V*) / beta) with a loss of zero; there beta log pi / pi_0 of a token is its soft
advantage, and these add up to r - V*. The form is that of A*-PO, arXiv 2505.20686.
"""

from __future__ import annotations

import torch
from torch import Tensor

from algorithms.terms import Metrics, over_responses

STEPS = 100
"""Halvings of the bracket around V*."""


def outcome_regression(
    logp: Tensor,
    reference_logp: Tensor,
    target: Tensor,
    sequence: Tensor,
    beta: float = 0.1,
    length_normalised: bool = False,
) -> tuple[Tensor, Metrics]:
    """(s - target)^2; each token [T] carries its response's loss. The target of the closed form is r - V*.

    All tokens of a response must be in the call; ``length_normalised``: s is beta times the mean over them.
    Metrics [T]: ``score``, s; ``fit``, |target - s|.
    """
    score = beta * over_responses(logp - reference_logp.detach(), sequence, length_normalised)
    seen = score.detach()
    return (score - target).square(), {"score": seen, "fit": (target - seen).abs()}


def log_partition(reward: Tensor, group: Tensor, beta: Tensor | float) -> Tensor:
    """V* [S] of each response's group: the V at which the group's mean of exp((r - V) / beta) is 1.

    For one ``beta`` that is beta log mean exp(r / beta), an estimate of beta log E_pi_0 exp(r / beta);
    a ``beta`` [S] a response, as length normalisation gives, has no closed form and is searched for.
    ``reward`` and ``group`` [S]; the result has ``reward``'s type.
    """
    exact = reward.double()
    scale = torch.as_tensor(beta, dtype=torch.float64, device=exact.device).expand_as(exact)
    found = torch.empty_like(exact)
    for name in torch.unique(group):
        mine = group == name
        r, b = exact[mine], scale[mine]
        count = r.new_tensor(float(len(r))).log()
        if bool((b == b[0]).all()):
            found[mine] = b[0] * (torch.logsumexp(r / b[0], 0) - count)
            continue
        low, high = r.min(), r.max()
        for _ in range(STEPS):
            middle = (low + high) / 2
            over = torch.logsumexp((r - middle) / b, 0) > count
            low, high = torch.where(over, middle, low), torch.where(over, high, middle)
        found[mine] = (low + high) / 2
    return found.to(reward.dtype)
