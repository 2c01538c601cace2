"""How much better than its group a response is."""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantage(
    rewards: Tensor, group: Tensor, scale_by_std: bool = True, virtual: float | None = None
) -> Tensor:
    """Group-relative advantages [S] of S responses, in ``rewards``' floating type.

        A_i = (r_i - mean(r)) / std(r)        (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, section 4.1)

    over the responses of ``group`` [S] (any integers), with the population standard deviation; without the
    division where ``scale_by_std`` is False (Liu et al. 2025, Dr.GRPO, arXiv 2503.20783). One more response
    of the reward ``virtual`` counts in each group's mean and deviation where that is given (Nan et al. 2025,
    NGRPO, arXiv 2509.18851, "advantage calibration"). A group whose rewards, that one included, are all
    equal, compared exactly, has advantages of exactly zero; no constant is added to the deviation. Raises
    ``ValueError`` for a reward that is not finite and for shapes that differ.
    """
    if rewards.shape != group.shape or rewards.ndim != 1:
        raise ValueError(f"rewards {tuple(rewards.shape)} and group {tuple(group.shape)} must be one [S]")
    kind = rewards.dtype if rewards.is_floating_point() else torch.float32
    exact = rewards.double()
    if not bool(torch.isfinite(exact).all()):
        raise ValueError("a reward is not finite")
    names, place = torch.unique(group, return_inverse=True)
    values, of = exact, place
    if virtual is not None:
        values = torch.cat([exact, exact.new_full((len(names),), virtual)])
        of = torch.cat([place, torch.arange(len(names), device=place.device)])
    blank = torch.zeros(len(names), dtype=torch.float64, device=exact.device)
    lowest = blank.scatter_reduce(0, of, values, "amin", include_self=False)
    highest = blank.scatter_reduce(0, of, values, "amax", include_self=False)
    centred = values - blank.scatter_reduce(0, of, values, "mean", include_self=False)[of]
    if scale_by_std:
        variance = blank.scatter_reduce(0, of, centred.square(), "mean", include_self=False)
        centred = centred / variance.sqrt()[of]
    centred = centred[: len(exact)]
    constant = (lowest == highest)[place]
    return torch.where(constant, torch.zeros_like(centred), centred).to(kind)


def decoupled_advantage(rewards: Tensor, weights: Tensor, group: Tensor) -> Tensor:
    """Advantages [S] of S responses from K rewards [S, K] and their weights [K]; float32.

        A_i = sum_k w_k (r_ik - mean_k(r)) / std_k(r)  /  std(A)
                                                    (Liu et al. 2026, GDPO, arXiv 2601.05242, section 3)

    Each reward is normalised within its ``group`` [S], as ``group_advantage`` does; the sums are divided by
    their standard deviation over the batch, so that their size does not grow with K. Their mean over the
    batch is 0 already. Ours: a reward that is NaN does not apply to that response and counts as 0 there, the
    others of its group are normalised among themselves; a batch whose sums are all 0 stays so.
    """
    if rewards.ndim != 2 or weights.shape != rewards.shape[1:] or group.shape != rewards.shape[:1]:
        raise ValueError(
            f"rewards {tuple(rewards.shape)}, weights {tuple(weights.shape)} and group {tuple(group.shape)} "
            "must be [S, K], [K] and [S]"
        )
    summed = torch.zeros(len(rewards), dtype=torch.float64, device=rewards.device)
    for reward, weight in zip(rewards.double().T, weights.double(), strict=True):
        applies = ~reward.isnan()
        if bool(applies.any()):
            summed[applies] += weight * group_advantage(reward[applies], group[applies])
    spread = summed.square().mean().sqrt() if len(summed) else summed.sum()
    return (summed / spread if bool(spread > 0.0) else summed).float()


def overlong_penalty(lengths: Tensor, max_length: int | Tensor, cache_length: int) -> Tensor:
    """Added to the reward of responses that come near the limit; float32, the shape of ``lengths`` (tokens).

        0                              up to L_max - L_cache
        (L_max - L_cache - |o|) / L_cache   from there to L_max
        -1                             beyond              (Yu et al. 2025, DAPO, arXiv 2503.14476, equation
        13)

    ``max_length``: of all of them, or of each. Raises ``ValueError`` unless 0 < cache_length <= max_length.
    """
    least = int(torch.as_tensor(max_length).min()) if lengths.numel() else cache_length
    if not 0 < cache_length <= least:
        raise ValueError(f"cache_length {cache_length} must lie in 1..{least}")
    over = (max_length - cache_length) - lengths.double()
    return (over / cache_length).clamp(-1.0, 0.0).float()
