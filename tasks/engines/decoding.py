"""Samples responses on the trainer's own weights, on a CPU: a prompt is computed and held once for all of its
responses.

Prompts are taken as room allows, and the next one as soon as all responses to an earlier one are whole. What
is drawn depends on a response's prompt and seed alone. All in one thread: two side by side take longer, since
each reads all weights for every token and waits for the interpreter at thousands of small operations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tasks.engines.base import EngineFailure, Request, Response, Sampling
from tasks.engines.cascade import CascadeCache
from tasks.engines.drawing import Drawn, draw
from tasks.engines.packed_layers import product
from tasks.policy.hidden_states import hidden_states
from tasks.policy.load import head_weight
from tasks.policy.prefix_attention import Kernel, use_kernel

PREFILL_TOKENS = 2048
"""Positions of prompts in one pass, unless a single one is longer."""


@dataclass
class _Row:
    """A response under way."""

    index: int
    request: Request
    slot: int
    drawn: list[Drawn] = field(default_factory=list)

    @property
    def place(self) -> tuple[int, int]:
        """Of the next number that its tokens are drawn with."""
        return self.request.seed, len(self.request.prompt_ids) + len(self.drawn)


Family = list[tuple[int, Request]]
"""Requests with one prompt, by their index."""


@dataclass(frozen=True)
class Room:
    """What may be held at once."""

    rows: int
    """Responses side by side."""
    tokens: int
    """Positions whose keys and values are kept."""


class Decoding:
    """Samples families of requests, one token of every response under way at a time."""

    def __init__(
        self, network: PreTrainedModel, families: Sequence[Family], sampling: Sampling, room: Room
    ) -> None:
        self._network, self._sampling = network, sampling
        self._product = product(head_weight(network).detach())
        prompt = max(len(family[0][1].prompt_ids) for family in families)
        most = max(request.most(sampling) for family in families for _, request in family)
        self._members = max(1, min(max(map(len, families)), room.rows, (room.tokens - prompt) // most))
        self._waiting = deque(part for family in families for part in _cut(family, self._members))
        affordable = min(room.rows // self._members, room.tokens // (prompt + self._members * most))
        self._count = max(1, min(len(self._waiting), affordable))
        self._cache = CascadeCache(self._count, self._members, prompt, most)
        self._free = list(range(self._count))
        self._rows: list[_Row] = []

    def steps(self) -> Generator[tuple[int, dict[int, Response]], None, None]:
        """Sample all: after each step, how many tokens were drawn and which responses are whole.

        Raises ``EngineFailure`` for what torch or the model raises.
        """
        while self._waiting or self._rows:
            try:
                step = self._step()
            except RuntimeError as error:
                raise EngineFailure(f"transformers: {error}") from error
            yield step

    @torch.inference_mode()
    def _step(self) -> tuple[int, dict[int, Response]]:
        tokens, done = 0, dict[int, Response]()
        for scores, rows in self._scored():
            tokens += len(rows)
            drawn = draw(scores, [row.place for row in rows], self._sampling)
            for row, token in zip(rows, drawn, strict=True):
                row.drawn.append(token)
                if reason := self._ended(row):
                    done[row.index] = _response(row, reason)
        self._drop(done)
        return tokens, done

    def _scored(self) -> list[tuple[Tensor, list[_Row]]]:
        """Scores [n, V] of rows' next tokens: of those under way, and of those that begin."""
        under_way = list(self._rows)
        steps = [(self._next(under_way), under_way)] if under_way else []
        if self._free and self._waiting:
            steps.append(self._begin())
        return steps

    def _next(self, rows: list[_Row]) -> Tensor:
        self._cache.begin_decode(
            torch.tensor([row.slot for row in rows]), torch.tensor([len(row.drawn) - 1 for row in rows])
        )
        ids, places = [row.drawn[-1].token for row in rows], [row.place[1] - 1 for row in rows]
        return self._product(self._states(ids, places, self._cache.decode))

    def _begin(self) -> tuple[Tensor, list[_Row]]:
        """Take prompts for which there is room, one at least."""
        begun: list[tuple[int, Family]] = []
        tokens = 0
        while self._free and self._waiting:
            tokens += len(self._waiting[0][0][1].prompt_ids)
            if begun and tokens > PREFILL_TOKENS:
                break
            begun.append((self._free.pop(0), self._waiting.popleft()))
        prompts = [family[0][1].prompt_ids for _, family in begun]
        lengths = list(map(len, prompts))
        self._cache.begin_prefill([place for place, _ in begun], lengths)
        ids = [token for prompt in prompts for token in prompt]
        places = [place for length in lengths for place in range(length)]
        last = torch.tensor(lengths).cumsum(0) - 1
        scores = self._product(self._states(ids, places, self._cache.prefill)[last])
        rows = [
            _Row(index, request, place * self._members + member)
            for place, family in begun
            for member, (index, request) in enumerate(family)
        ]
        self._rows += rows
        return scores.repeat_interleave(torch.tensor([len(family) for _, family in begun]), 0), rows

    def _states(self, ids: list[int], places: list[int], kernel: Kernel) -> Tensor:
        """Hidden states [n, H]."""
        with use_kernel(kernel):
            found = hidden_states(
                self._network, input_ids=torch.tensor([ids]), position_ids=torch.tensor([places])
            )
        return found[0]

    def _ended(self, row: _Row) -> str | None:
        sampling, ends = self._sampling, self._sampling.ends
        if row.drawn[-1].token in sampling.stop_ids:
            return "stop"
        if ends is not None and ends([each.token for each in row.drawn]):
            return "stop"
        return "length" if len(row.drawn) >= row.request.most(sampling) else None

    def _drop(self, done: dict[int, Response]) -> None:
        if not done:
            return
        self._rows = [row for row in self._rows if row.index not in done]
        taken = {row.slot // self._members for row in self._rows}
        self._free = [place for place in range(self._count) if place not in taken]


def families(requests: Sequence[Request]) -> list[Family]:
    """Requests with one prompt together, in the order in which their first ones were asked."""
    found: dict[tuple[int, ...], Family] = {}
    for index, request in enumerate(requests):
        found.setdefault(request.prompt_ids, []).append((index, request))
    return list(found.values())


def _cut(family: Family, most: int) -> list[Family]:
    return [family[first : first + most] for first in range(0, len(family), most)]


def _response(row: _Row, reason: str) -> Response:
    drawn = row.drawn
    return Response(
        tuple(each.token for each in drawn),
        tuple(each.logp for each in drawn),
        reason,
        tuple(token for each in drawn for token in each.top_ids),
        tuple(logp for each in drawn for logp in each.top_logp),
        tuple(value for each in drawn for value in each.entropy),
    )
