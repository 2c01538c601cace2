"""Draws tokens for transformers' continuous batching, each with a number of (seed, position)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tasks.core.seeds import seed
from tasks.engines.base import Request, Sampling

_Told = tuple[list[int], list[float], list[float]]
"""Ids and log-probabilities of the likeliest tokens, and entropies, position after position."""


class Drawing:
    """Draws tokens: u in [0, 1) is of (seed, position), the token is where the cumulated p passes u."""

    batch: Any
    """The library's account of which requests the rows of a step belong to."""

    def __init__(self, requests: Sequence[Request], families: list[list[int]], sampling: Sampling) -> None:
        self.family_size = len(families[0])
        firsts = [requests[members[0]] for members in families]
        self.prompts = [(str(f), r.prompt_ids, r.most(sampling)) for f, r in enumerate(firsts)]
        self.index: dict[str, int] = {}
        for f, members in enumerate(families):
            names = [str(f), *(f"{f}__child#{child}" for child in range(len(members) - 1))]
            self.index.update(zip(names, members, strict=True))
        self.tokens = 0
        self.ended: set[str] = set()
        self.told: dict[str, _Told] = {name: ([], [], []) for name in self.index}
        self.names = {index: name for name, index in self.index.items()}
        self._seeds = {name: requests[index].seed for name, index in self.index.items()}
        self.sampling = sampling

    def add(self, index: int, request: Request) -> str:
        """What a request that comes up is called."""
        name = f"then-{index}"
        self.index[name], self.names[index] = index, name
        self.told[name], self._seeds[name] = ([], [], []), request.seed
        return name

    def sample(self, scores: Tensor, out: Tensor) -> None:
        """A token for each row of ``scores`` [1, n, V]; ``out`` [2, n] takes ids and log-probabilities."""
        states = [future.state for future in self.batch.requests_in_batch if future.has_new_token]
        if not states:  # prompts alone
            return
        count, temperature, top = len(states), self.sampling.temperature, self.sampling.top
        logs = torch.log_softmax(scores[0, :count].float() / (temperature or 1.0), dim=-1)
        if self.sampling.truncates:
            logs = _truncated(logs, self.sampling)
        if temperature == 0.0:
            chosen = logs.argmax(dim=-1, keepdim=True)
        else:
            draws = [seed(self._seeds[state.request_id], "token", state.position_offset) for state in states]
            u = torch.tensor([[(draw >> 10) / 2**53] for draw in draws], dtype=torch.float64)
            mass = logs.double().exp_().cumsum_(dim=-1)
            chosen = torch.searchsorted(mass, u.to(mass.device) * mass[:, -1:], right=True)
            chosen.clamp_(max=mass.shape[1] - 1)
        out[0, :count] = chosen.squeeze(1)
        out[1, :count] = logs.gather(1, chosen).squeeze(1).view(torch.int32)
        if top:
            likely = logs.topk(top, dim=-1)
            rows = zip(states, likely.indices.tolist(), likely.values.tolist(), strict=True)
            for state, ids, logp in rows:
                self.told[state.request_id][0].extend(ids)
                self.told[state.request_id][1].extend(logp)
        if self.sampling.ends:
            self._end(states, chosen.squeeze(1).tolist(), self.sampling.ends)
        if self.sampling.entropy:
            spread = -torch.linalg.vecdot(logs.exp(), logs)
            for state, value in zip(states, spread.tolist(), strict=True):
                self.told[state.request_id][2].append(value)
        self.tokens += count

    def _end(self, states: list[Any], chosen: list[int], ends: Callable[[Sequence[int]], bool]) -> None:
        """Have the library take the tokens that complete a response for its end tokens."""
        for state, token in zip(states, chosen, strict=True):
            if ends([*state.generated_tokens, token]):
                state._eos_token_ids = {*state._eos_token_ids, token}
                self.ended.add(state.request_id)


def _truncated(logs: Tensor, sampling: Sampling) -> Tensor:
    """Log-probabilities [n, V] with all but the likeliest tokens at -inf, and the rest made to sum to 1."""
    falling, ids = logs.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        falling[:, sampling.top_k :] = -math.inf
    mass = falling.softmax(-1)
    falling[mass.cumsum(-1) - mass >= sampling.top_p] = -math.inf  # what is before it reaches top-p already
    return torch.empty_like(logs).scatter_(1, ids, falling.log_softmax(-1))
