"""How much better than its group a response is."""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantage(rewards: Tensor, group: Tensor, scale_by_std: bool = True) -> Tensor:
    """Group-relative advantages [S] of S responses, in ``rewards``' floating type.

        A_i = (r_i - mean(r)) / std(r)        (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, section 4.1)

    over the responses of ``group`` [S] (any integers), with the population standard deviation; without the
    division where ``scale_by_std`` is False (Liu et al. 2025, Dr.GRPO, arXiv 2503.20783). A group whose
    rewards are all equal, compared exactly, has advantages of exactly zero; no constant is added to the
    deviation. Raises ``ValueError`` for a reward that is not finite and for shapes that differ.
    """
    if rewards.shape != group.shape or rewards.ndim != 1:
        raise ValueError(f"rewards {tuple(rewards.shape)} and group {tuple(group.shape)} must be one [S]")
    kind = rewards.dtype if rewards.is_floating_point() else torch.float32
    exact = rewards.double()
    if not bool(torch.isfinite(exact).all()):
        raise ValueError("a reward is not finite")
    names, place = torch.unique(group, return_inverse=True)
    blank = torch.zeros(len(names), dtype=torch.float64, device=exact.device)
    lowest = blank.scatter_reduce(0, place, exact, "amin", include_self=False)
    highest = blank.scatter_reduce(0, place, exact, "amax", include_self=False)
    centred = exact - blank.scatter_reduce(0, place, exact, "mean", include_self=False)[place]
    if scale_by_std:
        variance = blank.scatter_reduce(0, place, centred.square(), "mean", include_self=False)
        centred = centred / variance.sqrt()[place]
    constant = (lowest == highest)[place]
    return torch.where(constant, torch.zeros_like(centred), centred).to(kind)


def overlong_penalty(lengths: Tensor, max_length: int, cache_length: int) -> Tensor:
    """Added to the reward of responses that come near the limit; float32, the shape of ``lengths`` (tokens).

        0                              up to L_max - L_cache
        (L_max - L_cache - |o|) / L_cache   from there to L_max
        -1                             beyond              (Yu et al. 2025, DAPO, arXiv 2503.14476, equation
        13)

    Raises ``ValueError`` unless 0 < cache_length <= max_length.
    """
    if not 0 < cache_length <= max_length:
        raise ValueError(f"cache_length {cache_length} must lie in 1..{max_length}")
    over = (max_length - cache_length) - lengths.double()
    return (over / cache_length).clamp(-1.0, 0.0).float()
