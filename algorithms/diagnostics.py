"""What is watched while a policy trains."""

from __future__ import annotations

import torch
from torch import Tensor

from algorithms.divergence import binary_tv, log_ratio


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy in nats of softmax(``logits``): [..., V] to [...]. A logit may be -inf."""
    spread: Tensor = torch.special.entr(_softmax(logits)).sum(-1)
    return spread


def rank_probabilities(logits: Tensor, k: int) -> Tensor:
    """The k largest probabilities of softmax(``logits``), falling: [..., V] to [..., k].

    Raises ``ValueError`` unless 1 <= k <= V.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"k is {k}; expected 1..{logits.shape[-1]}")
    return _softmax(logits).topk(k, dim=-1).values


def pass_at_k(correct: Tensor, n: int, k: int) -> Tensor:
    """The chance that k of a problem's n responses, drawn without replacement, hold a correct one.

        pass@k = 1 - C(n - c, k) / C(n, k)          (Chen et al. 2021, arXiv 2107.03374, equation 1; unbiased)

    ``correct`` [P] counts the correct responses of each problem; float64 [P]. Raises ``ValueError`` unless
    1 <= k <= n and every count lies in 0..n.
    """
    count = torch.as_tensor(correct)
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; expected 1..{n}, the number of responses")
    if bool(((count < 0) | (count > n)).any()):
        raise ValueError(f"a count of correct responses lies outside 0..{n}")
    drawn = torch.arange(k, dtype=torch.float64, device=count.device)
    wrong = (n - count.double()[..., None] - drawn).clamp(min=0.0)
    return 1.0 - (wrong / (n - drawn)).prod(-1)


def effective_sample_size(log_ratio: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 with w = exp(``log_ratio`` [T]): between 1 and T samples (Kish 1965); a scalar.

    Raises ``ValueError`` for no sample.
    """
    if log_ratio.numel() == 0:
        raise ValueError("no sample")
    flat = log_ratio.flatten().double()
    return (2.0 * flat.logsumexp(0) - (2.0 * flat).logsumexp(0)).exp().to(log_ratio.dtype)


def policy_shift(logp: Tensor, behaviour_logp: Tensor) -> dict[str, Tensor]:
    """How far the policy pi is from the behaviour policy mu on each of T sampled tokens.

    Metrics [T], without gradient. ``ratio``, ``ratio_max``: pi / mu. ``shift``, ``shift_max``: |pi - mu|, the
    binary total variation. ``shift_tail``: 1 where that is more than 0.1.
    """
    now, before = logp.detach(), behaviour_logp.detach()
    ratio = log_ratio(now, before).exp()
    shift = binary_tv(now, before)
    return {
        "ratio": ratio,
        "ratio_max": ratio,
        "shift": shift,
        "shift_max": shift,
        "shift_tail": (shift > 0.1).to(shift.dtype),
    }


def clipped(low: Tensor, high: Tensor, like: Tensor) -> dict[str, Tensor]:
    """Metrics [T] in ``like``'s type: ``clip_low``, ``clip_high`` [T] bool, ``clip_fraction`` for either."""
    return {
        "clip_fraction": (low | high).to(like.dtype),
        "clip_low": low.to(like.dtype),
        "clip_high": high.to(like.dtype),
    }


def penalty_weight(weight: Tensor) -> dict[str, Tensor]:
    """Metrics [T] of the factor that a quadratic penalty puts on each token's policy gradient.

    ``weight``: itself; ``corrective``: 1 where it is negative and so pulls the token back; ``amplified``: 1
    where it is above 1, on a token that is already on its way back.
    """
    return {
        "weight": weight,
        "corrective": (weight < 0).to(weight.dtype),
        "amplified": (weight > 1).to(weight.dtype),
    }


def _softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
