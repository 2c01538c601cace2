"""Between two distributions: pi_eta = pi_0^(1 - eta) pi_1^eta / Z, and how far it is from pi_0.

The exact answer to "towards pi_1, but no further than this": it minimises KL(pi | pi_1) among all pi with
KL(pi | pi_0) <= budget. With l = log pi_1 / pi_0 and psi(eta) = log E_pi_0 exp(eta l),

    KL(pi_eta | pi_0) = eta psi'(eta) - psi(eta),    d KL / d eta = eta Var_pi_eta[l] >= 0

so that the eta of a budget is unique, and found between brackets. Standard facts of exponential families.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

STEPS = 100
"""Of a search, at most; Newton's, kept between brackets, take some six."""
PRECISION = 1e-13
"""Of the divergence: absolute in nats, and relative."""


def geometric_target(
    base_logits: Tensor, teacher_logits: Tensor, budget: float | Tensor, most: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The geometric mean with KL(target | base) = ``budget`` nats: log-probabilities [..., V] and eta [...].

    Where KL(teacher | base) is smaller, the teacher itself, with eta = 1; ``most`` above 1 goes beyond it, up
    to pi_0 (pi_1 / pi_0)^most. ``budget`` is a number or [...]. A logit may be -inf: a word that either
    excludes has no probability between them; where nothing between them is within the budget, the base.
    Computed in float64, returned in the logits' type (at least float32). Raises ``ValueError`` for a budget
    that is negative or no number.
    """
    kind = torch.promote_types(torch.promote_types(base_logits.dtype, teacher_logits.dtype), torch.float32)
    base, log_ratio = _parts(base_logits, teacher_logits)
    limit = torch.as_tensor(budget, dtype=torch.float64, device=base.device).expand(base.shape[:-1])
    if not bool((limit >= 0).all()):
        raise ValueError(f"budget is {budget}; expected no less than 0, in nats")
    eta = _search(base, log_ratio, limit, most)
    target = between(base, log_ratio, eta)
    target = torch.where((eta == 0)[..., None], base_logits.double().log_softmax(-1), target)
    reached = (eta == 1) & ~(base_logits.isinf() & ~teacher_logits.isinf()).any(-1)
    target = torch.where(reached[..., None], teacher_logits.double().log_softmax(-1), target)
    return target.to(kind), eta.to(kind)


def between(base: Tensor, log_ratio: Tensor, eta: Tensor) -> Tensor:
    """log pi_eta [..., V] for log pi_0, l [..., V] and eta [...]."""
    return (base + eta[..., None] * log_ratio).log_softmax(-1)


def divergences(base_logits: Tensor, teacher_logits: Tensor, etas: Sequence[float]) -> Tensor:
    """KL(pi_eta | pi_0) of each eta: [..., V] to [..., len(etas)], float64."""
    base, log_ratio = _parts(base_logits, teacher_logits)
    shape = base.shape[:-1]
    found = [_moments(base, log_ratio, base.new_full(shape, eta))[0] for eta in etas]
    return torch.stack(found, -1)


def eta_of(etas: Sequence[float], divergence: Sequence[float], budget: float) -> float:
    """The eta at which a rising curve of divergences reaches ``budget``; the last one where it does not.

    Interpolated in the divergence's square root, which is nearly linear in eta.
    """
    if divergence[-1] <= budget:
        return etas[-1]
    wanted, roots = math.sqrt(budget), [math.sqrt(max(value, 0.0)) for value in divergence]
    upper = next(place for place, root in enumerate(roots) if root > wanted)
    if upper == 0:
        return etas[0]
    low, high = roots[upper - 1], roots[upper]
    return etas[upper - 1] + (etas[upper] - etas[upper - 1]) * (wanted - low) / (high - low)


def _parts(base_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """log pi_0, -inf where either excludes a word, and l, 0 there."""
    base, teacher = base_logits.double().log_softmax(-1), teacher_logits.double().log_softmax(-1)
    shut = base.isinf() | teacher.isinf()
    log_ratio = torch.where(shut, torch.zeros_like(base), teacher - base)
    return base.masked_fill(shut, -torch.inf), log_ratio


def _moments(base: Tensor, log_ratio: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    """KL(pi_eta | pi_0) and Var_pi_eta[l], both [...]."""
    tilted = base + eta[..., None] * log_ratio
    norm = tilted.logsumexp(-1, keepdim=True)
    weight = (tilted - norm).exp()
    mean = (weight * log_ratio).sum(-1)
    variance = (weight * (log_ratio - mean[..., None]).square()).sum(-1)
    return (eta * mean - norm[..., 0]).clamp(min=0.0), variance


def _search(base: Tensor, log_ratio: Tensor, limit: Tensor, most: float) -> Tensor:
    """The eta of each state, by Newton's method between brackets."""
    low, high = torch.zeros_like(limit), torch.full_like(limit, most)
    whole = _moments(base, log_ratio, high)[0] <= limit
    start = _moments(base, log_ratio, low)[1].clamp(min=1e-300)
    eta = torch.minimum((2.0 * limit / start).sqrt(), 0.5 * high)
    for _ in range(STEPS):
        divergence, variance = _moments(base, log_ratio, eta)
        over = divergence > limit
        low, high = torch.where(over, low, eta), torch.where(over, eta, high)
        near = (divergence - limit).abs() <= PRECISION * (1.0 + limit)
        if bool((near | whole | (high - low <= 1e-16)).all()):
            break
        step = eta - (divergence - limit) / (eta * variance).clamp(min=1e-300)
        inside = (step > low) & (step < high)
        eta = torch.where(near, eta, torch.where(inside, step, (low + high) / 2))
    too_far = (limit == 0) | (_moments(base, log_ratio, eta)[0] > limit + 1e-9 * (1.0 + limit))
    eta = torch.where(too_far, torch.zeros_like(eta), eta)
    return torch.where(whole, torch.full_like(eta, most), eta)
