"""Divergences between two policies, a token at a time, from the log-probabilities of what was sampled.

All arguments and results are [T] (or any one shape), float32 or float64, in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""exp(20) = 4.9e8 still squares within float32; a token further off says nothing but that it is far off."""

_SERIES_BELOW = 0.1
"""Below this |d|, exp(d) - 1 - d loses digits to cancellation and its series has all of float32's."""

_COEFFICIENTS = [1 / math.factorial(n) for n in range(2, 11)]


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
    near = torch.where(small, d, torch.zeros_like(d))
    far = torch.where(small, torch.ones_like(d), d)
    series = torch.full_like(near, _COEFFICIENTS[-1])
    for coefficient in reversed(_COEFFICIENTS[:-1]):
        series = coefficient + near * series
    return torch.where(small, near.square() * series, torch.expm1(far) - far)
