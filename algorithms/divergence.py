"""Divergences between two policies, a token at a time.

Most need only the log-probabilities of what was sampled. All arguments and results are [T] (or any one
shape), float32 or float64, in nats. The binary divergences compare two Bernoulli distributions, "this token"
against "any other", and are a lower bound of the divergence over the whole vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LOG_RATIO_LIMIT = 20.0
"""exp(20) = 4.9e8 still squares within float32; a token further off says nothing but that it is far off."""

_SERIES_BELOW = 0.1
"""Below this |d|, exp(d) - 1 - d loses digits to cancellation and its series has all of float32's."""

_COEFFICIENTS = [1 / math.factorial(n) for n in range(2, 11)]

_LOWEST_LOG = -100.0
"""exp(-100) is nothing beside any other mass, and a product with it is 0 where one with -inf is NaN."""

_SMALLEST_MASS = 1e-12
"""Least mass of what is got by subtraction from 1, lest a probability rounded to 1 be infinitely far."""


def log_ratio(logp: Tensor, logq: Tensor) -> Tensor:
    """log p - log q, clamped to +-20; outside the clamp its gradient is zero."""
    return (logp - logq).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def kl_k1(logp: Tensor, logq: Tensor) -> Tensor:
    """k1 = log p - log q: unbiased for KL(p || q) for samples from p; of either sign (Schulman 2020)."""
    return logp - logq


def kl_k3(logp: Tensor, logq: Tensor) -> Tensor:
    """k3 = e^d - 1 - d with d = log q - log p: unbiased for KL(p || q) for samples from p, never negative.

    From Schulman, "Approximating KL divergence" (2020). d is clamped to +-20.
    """
    d = log_ratio(logq, logp)
    small = d.abs() < _SERIES_BELOW
    far = torch.where(small, torch.ones_like(d), d)
    return torch.where(small, _series(d, small), torch.expm1(far) - far)


def jensen_shannon(logp: Tensor, logq: Tensor, ratio_cap: float | None = None) -> Tensor:
    """f(r) = (r ln r - (r + 1) ln((r + 1) / 2)) / 2, r = p / q: unbiased for JSD(p || q) for samples from q.

    JSD(p || q) = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2 (Lin 1991). f is never negative and is 0
    only at r = 1. The code of DPH-RL, arXiv 2509.07430, has 2 f. log r is clamped to +-20.

    The gradient with respect to ``logp`` is w(r) = r ln(2 r / (1 + r)) / 2, which grows without bound where
    the policy has moved toward a token. ``ratio_cap`` c makes it min(r, c) ln(2 r / (1 + r)) / 2 and leaves
    the value as it is (our reconstruction). Differentiable once. Raises ``ValueError`` unless c is positive.
    """
    if ratio_cap is not None and not ratio_cap > 0:
        raise ValueError(f"ratio_cap is {ratio_cap}; expected a positive number or None")
    x = log_ratio(logp, logq)
    seen = x.detach()
    capped = seen if ratio_cap is None else seen.clamp(max=math.log(ratio_cap))
    derivative = 0.5 * capped.exp() * _log_twice_sigmoid(seen)
    return _jsd_part(seen, torch.zeros_like(seen)) + derivative * (x - seen)


def binary_tv(logp: Tensor, logq: Tensor) -> Tensor:
    """|p - q|: the total variation between Bernoulli(p) and Bernoulli(q), in 0..1."""
    logp, logq = _log_mass(logp), _log_mass(logq)
    return -torch.maximum(logp, logq).exp() * torch.expm1(-(logp - logq).abs())


def binary_kl(logp: Tensor, logq: Tensor) -> Tensor:
    """KL(Bernoulli(p) || Bernoulli(q)) = p ln(p / q) + (1 - p) ln((1 - p) / (1 - q)), never negative.

    1 - p and 1 - q count as 1e-12 where they are less, log p and log q as -100: the result is finite.
    """
    return _kl_part(_log_mass(logp), _log_mass(logq)) + _kl_part(_log_complement(logp), _log_complement(logq))


def binary_jsd(logp: Tensor, logq: Tensor) -> Tensor:
    """JSD(Bernoulli(p) || Bernoulli(q)), in 0..ln 2; its gradient for log p is p (logit p - logit m) / 2."""
    return _jsd_part(_log_mass(logp), _log_mass(logq)) + _jsd_part(
        _log_complement(logp), _log_complement(logq)
    )


@dataclass(frozen=True)
class TopK:
    """Two policies on the K tokens that the behaviour policy held likeliest, at each of T positions."""

    behaviour_logp: Tensor
    """[T, K] log-probabilities of the behaviour policy, in nats; -inf where there are fewer than K."""
    logp: Tensor
    """[T, K] log-probabilities of the current policy at the same tokens, in nats, without gradient."""
    sampled: Tensor
    """[T, K] bool: which of them was sampled. Where none was, the sampled token is one more bucket."""


def top_tv(logp: Tensor, behaviour_logp: Tensor, top: TopK) -> Tensor:
    """Half the absolute difference over the top tokens, the sampled token and the rest: [T], no gradient.

    ``logp`` and ``behaviour_logp`` [T] are the sampled token's. From DPPO, arXiv 2602.04879.
    """
    now, before = _buckets(logp, behaviour_logp, top)
    return (0.5 * (now.exp() - before.exp()).abs().sum(-1)).to(logp.dtype)


def top_kl(logp: Tensor, behaviour_logp: Tensor, top: TopK) -> Tensor:
    """KL(behaviour || current) over the top tokens, the sampled token and the rest: [T], no gradient.

    ``logp`` and ``behaviour_logp`` [T] are the sampled token's; a rest of less than 1e-12 counts as that.
    From DPPO, arXiv 2602.04879.
    """
    now, before = _buckets(logp, behaviour_logp, top)
    return _kl_part(before, now).sum(-1).to(logp.dtype)


def _buckets(logp: Tensor, behaviour_logp: Tensor, top: TopK) -> tuple[Tensor, Tensor]:
    """Log-masses [T, K + 2] of both policies in float64: the top tokens, the sampled one, the rest."""
    listed = top.sampled.any(-1)

    def masses(ids: Tensor, sampled: Tensor) -> Tensor:
        ids, sampled = ids.detach().double(), sampled.detach().double()
        own = sampled.masked_fill(listed, -math.inf)[..., None]
        known = torch.cat([ids, own], -1)
        rest = (1.0 - known.exp().sum(-1, keepdim=True)).clamp(min=_SMALLEST_MASS).log()
        return _log_mass(torch.cat([known, rest], -1))

    return masses(top.logp, logp), masses(top.behaviour_logp, behaviour_logp)


def _log_mass(logp: Tensor) -> Tensor:
    return logp.clamp(min=_LOWEST_LOG)


def _log_complement(logp: Tensor) -> Tensor:
    """log(1 - p)."""
    return (-torch.expm1(logp)).clamp(min=_SMALLEST_MASS).log()


def _kl_part(log_m: Tensor, log_n: Tensor) -> Tensor:
    """m ln(m / n) - m + n, never negative: over masses with equal sums these add up to KL(m || n)."""
    d = log_n - log_m
    small = d.abs() < _SERIES_BELOW
    mass = log_m.exp()
    return torch.where(small, mass * _series(d, small), log_n.exp() - mass - mass * d)


def _jsd_part(log_a: Tensor, log_b: Tensor) -> Tensor:
    """(a ln(2 a / (a + b)) + b ln(2 b / (a + b))) / 2, never negative: one outcome's part of a JSD."""
    x = log_a - log_b
    small = x.abs() < 1.0
    near = torch.where(small, x, torch.zeros_like(x))
    slant = torch.tanh(0.5 * near)
    # With L(x) = ln(2 sigmoid(x)), e^x L(x) + L(-x) loses its digits near 0; (e^x - 1) L(x) + (L(x) + L(-x))
    # is the same, and the second bracket is ln(1 - tanh(x / 2)^2).
    close = log_b.exp() * (torch.expm1(near) * torch.log1p(slant) + torch.log1p(-slant.square()))
    far = log_a.exp() * _log_twice_sigmoid(x) + log_b.exp() * _log_twice_sigmoid(-x)
    return 0.5 * torch.where(small, close, far)


def _log_twice_sigmoid(x: Tensor) -> Tensor:
    """ln(2 sigmoid(x)), to full precision also near 0."""
    small = x.abs() < 1.0
    near = torch.where(small, x, torch.zeros_like(x))
    return torch.where(small, torch.log1p(torch.tanh(0.5 * near)), math.log(2.0) + logsigmoid(x))


def _series(d: Tensor, small: Tensor) -> Tensor:
    """e^d - 1 - d where ``small``, by its series; 0 elsewhere."""
    near = torch.where(small, d, torch.zeros_like(d))
    series = torch.full_like(near, _COEFFICIENTS[-1])
    for coefficient in reversed(_COEFFICIENTS[:-1]):
        series = coefficient + near * series
    return near.square() * series
