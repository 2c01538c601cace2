"""Draws tokens, each with a number of (seed, position): whatever else is drawn beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.seeds import seed
from tasks.engines.base import Sampling

ROWS = 8
"""Rows taken at once: what passes over a whole vocabulary stays in a core's caches."""


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
    logs = torch.log_softmax(scores.float() / (sampling.temperature or 1.0), dim=-1)
    if sampling.truncates:
        logs = _truncated(logs, sampling)
    if sampling.temperature == 0.0:
        chosen = logs.argmax(dim=-1, keepdim=True)
    else:
        draws = [seed(own, "token", position) for own, position in places]
        u = torch.tensor([[(number >> 10) / 2**53] for number in draws], dtype=torch.float64)
        mass = logs.double().exp_().cumsum_(dim=-1)
        chosen = torch.searchsorted(mass, u.to(mass.device) * mass[:, -1:], right=True)
        chosen.clamp_(max=mass.shape[1] - 1)
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


def _truncated(logs: Tensor, sampling: Sampling) -> Tensor:
    """Log-probabilities [n, V] with all but the likeliest tokens at -inf, and the rest made to sum to 1."""
    falling, ids = logs.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        falling[:, sampling.top_k :] = -math.inf
    mass = falling.softmax(-1)
    falling[mass.cumsum(-1) - mass >= sampling.top_p] = -math.inf  # what is before it reaches top-p already
    return torch.empty_like(logs).scatter_(1, ids, falling.log_softmax(-1))
