"""Draws tokens, each with a number of (seed, position): whatever else is drawn beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tasks.core.seeds import seed
from tasks.engines.base import Sampling

ROWS = 8
"""Rows taken at once: what passes over a whole vocabulary stays in a core's caches."""
BLOCK = 256
"""Tokens whose mass is found first as one."""


@dataclass(frozen=True)
class Drawn:
    """One token."""

    token: int
    logp: float
    top_ids: tuple[int, ...] = ()
    top_logp: tuple[float, ...] = ()
    entropy: tuple[float, ...] = ()
    """One number, where asked for."""


def draw(scores: Tensor, places: Sequence[tuple[int, int]], sampling: Sampling) -> list[Drawn]:
    """A token for each row of ``scores`` [n, V], given (seed, position) of each: u in [0, 1) is theirs, and
    the token is where the cumulated p passes u."""
    found: list[Drawn] = []
    for first in range(0, len(scores), ROWS):
        found += _draw(scores[first : first + ROWS], places[first : first + ROWS], sampling)
    return found


def _draw(scores: Tensor, places: Sequence[tuple[int, int]], sampling: Sampling) -> list[Drawn]:
    scores = scores.float()
    if sampling.temperature not in (0.0, 1.0):
        scores = scores / sampling.temperature
    logs = torch.log_softmax(scores, dim=-1)
    if sampling.truncates:
        logs = _truncated(logs, sampling)
    if sampling.temperature == 0.0:
        chosen = logs.argmax(dim=-1, keepdim=True)
    else:
        draws = [seed(own, "token", position) for own, position in places]
        u = torch.tensor([[(number >> 10) / 2**53] for number in draws], dtype=torch.float64)
        chosen = _where_mass_passes(logs.exp(), u.to(logs.device))
    count = len(places)
    likely: list[tuple[list[int], list[float]]] = [([], [])] * count
    if sampling.top:
        top = logs.topk(sampling.top, dim=-1)
        likely = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    spread: list[list[float]] = [[]] * count
    if sampling.entropy:
        spread = (-torch.linalg.vecdot(logs.exp(), logs))[:, None].tolist()
    tokens, logp = chosen.squeeze(1).tolist(), logs.gather(1, chosen).squeeze(1).tolist()
    return [
        Drawn(token, value, tuple(ids), tuple(values), tuple(entropy))
        for token, value, (ids, values), entropy in zip(tokens, logp, likely, spread, strict=True)
    ]


def _where_mass_passes(p: Tensor, u: Tensor) -> Tensor:
    """For each row of ``p`` [n, V] >= 0 the first place [n, 1] at which the cumulated p exceeds its share
    ``u`` [n, 1], in [0, 1), of all, to the rounding of blocks' sums: one of a p above 0. Of numbers that are
    none, the last place.

    A block of the vocabulary is found by the blocks' sums in float32, and the place by p within: cumulating a
    whole vocabulary in float64 takes seven times as long as the softmax.
    """
    blocks = functional.pad(p, (0, -p.shape[1] % BLOCK)).view(len(p), -1, BLOCK)
    mass = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
    wanted = u * mass[:, -1:]
    block = torch.searchsorted(mass, wanted, right=True).clamp_(max=mass.shape[1] - 1)
    through = mass.gather(1, block)
    before = torch.where(block > 0, mass.gather(1, (block - 1).clamp_(min=0)), 0.0)
    within = (
        blocks.gather(1, block[..., None].expand(-1, -1, BLOCK)).squeeze(1).cumsum(-1, dtype=torch.float64)
    )
    share = ((wanted - before) / (through - before)).clamp_(max=1 - 2**-53)
    found = block * BLOCK + torch.searchsorted(within, share * within[:, -1:], right=True)
    return found.clamp_(max=p.shape[1] - 1)


def _truncated(logs: Tensor, sampling: Sampling) -> Tensor:
    """Log-probabilities [n, V] with all but the likeliest tokens at -inf, and the rest made to sum to 1."""
    falling, ids = logs.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        falling[:, sampling.top_k :] = -math.inf
    mass = falling.softmax(-1)
    falling[mass.cumsum(-1) - mass >= sampling.top_p] = -math.inf  # what is before it reaches top-p already
    return torch.empty_like(logs).scatter_(1, ids, falling.log_softmax(-1))
