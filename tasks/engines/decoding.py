"""Samples responses on the trainer's own weights, on a CPU: a prompt is computed and held once for all of its
responses.

Prompts are taken as room allows, and the next one as soon as all responses to an earlier one are whole. A
turn that follows another goes on in its slot, its new tokens in one pass with all others' next; where the
slot went to somebody else, its beginning is computed anew. What is drawn depends on a response's prompt and
seed alone. All in one thread: two side by side take longer, since each reads all weights for every token and
waits for the interpreter at thousands of small operations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tasks.engines.base import IDLE_SECONDS, EngineFailure, More, Request, Response, Sampling, no_more
from tasks.engines.cascade import CascadeCache, Part
from tasks.engines.drawing import Drawn, draw
from tasks.engines.packed_layers import Product, product
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
    shared: int
    """Tokens of its prompt that it has in common with its family; the others are held as its own."""
    known: int
    """Its tokens, prompt and all, whose keys and values are held."""
    drawn: list[Drawn] = field(default_factory=list)

    @property
    def place(self) -> tuple[int, int]:
        """Of the next number that its tokens are drawn with."""
        return self.request.seed, len(self.request.prompt_ids) + len(self.drawn)

    @property
    def pending(self) -> int:
        """Tokens of which nothing is held yet: the last one drawn, or what came between two turns."""
        return self.place[1] - self.known

    @property
    def last(self) -> int:
        """Its last token."""
        return self.drawn[-1].token if self.drawn else self.request.prompt_ids[-1]

    def tokens(self) -> tuple[int, ...]:
        """Prompt and response."""
        return *self.request.prompt_ids, *(each.token for each in self.drawn)


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
        self,
        network: PreTrainedModel,
        families: Sequence[Family],
        sampling: Sampling,
        room: Room,
        more: More = no_more,
        head: Product | None = None,
    ) -> None:
        """``head``: the model's last product by its weight as it is now, where somebody has it. ``more``: see
        ``Engine.generate``; what follows a request fits with it into what ``sampling`` allows, or takes
        memory beyond ``room``."""
        self._network, self._sampling, self._more = network, sampling, more
        self._going = more is not no_more
        self._product = head or product(head_weight(network).detach())
        self.asked = {index: request for family in families for index, request in family}
        """All requests by their indices, with those that came up."""
        prompt = max(len(family[0][1].prompt_ids) for family in families)
        most = max(request.most(sampling) for request in self.asked.values())
        most = sampling.max_tokens if self._going else most
        self._members = max(1, min(max(map(len, families)), room.rows, (room.tokens - prompt) // most))
        self._waiting = deque(part for family in families for part in _cut(family, self._members))
        affordable = min(room.rows // self._members, room.tokens // (prompt + self._members * most))
        self._count = max(1, min(len(self._waiting), affordable))
        self._cache = CascadeCache(self._count, self._members, prompt, most)
        self._longest_prompt = prompt
        self._rows: list[_Row] = []
        self._whole: dict[int, _Row] = {}
        """Those that a next turn may follow and that are held, in the order in which they came to an end."""
        self._shared = {index: len(request.prompt_ids) for index, request in self.asked.items()}

    def steps(self) -> Generator[tuple[int, dict[int, Response]], None, None]:
        """Sample all: after each step, how many tokens were drawn and which responses are whole.

        Raises ``EngineFailure`` for what torch or the model raises.
        """
        while self._going or self._busy():
            if self._going:
                further = self._more(0.0 if self._busy() else IDLE_SECONDS)
                self._going = further is not None
                for request in further or ():
                    self._join(len(self.asked), request)
                if not self._busy():
                    continue
            try:
                step = self._step()
            except RuntimeError as error:
                raise EngineFailure(f"transformers: {error}") from error
            yield step

    def _busy(self) -> bool:
        return bool(self._waiting or self._rows)

    def _join(self, index: int, request: Request) -> None:
        """Go on in the slot of the request that it follows, where that is held; else wait for a place."""
        self.asked[index] = request
        earlier = None if request.follows is None else self._whole.pop(request.follows, None)
        if earlier is not None:
            known, self._shared[index] = earlier.known, earlier.shared
            if known < len(request.prompt_ids) and request.prompt_ids[:known] == earlier.tokens()[:known]:
                self._rows.append(_Row(index, request, earlier.slot, earlier.shared, known))
                return
        shared = self._longest_prompt if request.follows is None else self._shared[request.follows]
        self._shared[index] = shared = min(shared, len(request.prompt_ids))
        for family in self._waiting:
            if len(family) < self._members and self._goes_with(*family[0], request, shared):
                family.append((index, request))
                return
        self._waiting.append([(index, request)])

    def _goes_with(self, index: int, first: Request, request: Request, shared: int) -> bool:
        """Whether the two have a family's prompt in common, and both go on behind it."""
        own = self._shared[index]
        if own != shared or own == len(first.prompt_ids) or own == len(request.prompt_ids):
            return False
        return first.prompt_ids[:own] == request.prompt_ids[:own]

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
                    if self._going:
                        self._whole[row.index] = row
        if done:
            self._rows = [row for row in self._rows if row.index not in done]
        return tokens, done

    def _scored(self) -> list[tuple[Tensor, list[_Row]]]:
        """Scores [n, V] of rows' next tokens: of those under way, and of those that begin."""
        steps = [self._next()] if self._rows else []
        if self._waiting and (places := self._places()):
            steps.append(self._begin(places))
        return steps

    def _next(self) -> tuple[Tensor, list[_Row]]:
        """A token of each, and of those between two turns all that has come since, as far as that fits."""
        rows = [row for row in self._rows if row.pending == 1]
        count, tokens = len(rows), 0
        for row in self._rows:
            if row.pending > 1 and (not tokens or tokens + row.pending <= PREFILL_TOKENS):
                rows.append(row)
                tokens += row.pending
        slots = torch.tensor([row.slot for row in rows[:count]], dtype=torch.long)
        filled = torch.tensor([row.known - row.shared for row in rows[:count]], dtype=torch.long)
        longer = [Part(row.slot, row.known - row.shared, row.pending) for row in rows[count:]]
        self._cache.begin_decode(slots, filled, longer)
        ids = [row.last for row in rows[:count]]
        ids += [token for row in rows[count:] for token in row.request.prompt_ids[row.known :]]
        places = [place for row in rows for place in range(row.known, row.place[1])]
        states = self._states(ids, places, self._cache.decode)
        if longer:
            states = states[torch.tensor([row.pending for row in rows]).cumsum(0) - 1]
        for row in rows:
            row.known = row.place[1]
        return self._product(states), rows

    def _places(self) -> list[int]:
        """Of families: those that nothing is held for, then those of whose turns none is under way, the one
        that has waited longest first."""
        taken = {row.slot // self._members for row in self._rows}
        since = {row.slot // self._members: order for order, row in enumerate(self._whole.values())}
        free = (place for place in range(self._count) if place not in taken)
        return sorted(free, key=lambda place: (since.get(place, -1), place))

    def _begin(self, places: list[int]) -> tuple[Tensor, list[_Row]]:
        """Take prompts for which there is room, one at least."""
        begun: list[tuple[int, Family]] = []
        prompts: list[tuple[int, ...]] = []
        while places and self._waiting:
            index, request = self._waiting[0][0]
            prompts.append(request.prompt_ids[: self._shared[index]])
            if begun and sum(map(len, prompts)) > PREFILL_TOKENS:
                prompts.pop()
                break
            begun.append((places.pop(0), self._waiting.popleft()))
        taken = {place for place, _ in begun}
        self._whole = {i: row for i, row in self._whole.items() if row.slot // self._members not in taken}
        lengths = list(map(len, prompts))
        self._cache.begin_prefill([place for place, _ in begun], lengths)
        ids = [token for prompt in prompts for token in prompt]
        positions = [place for length in lengths for place in range(length)]
        last = torch.tensor(lengths).cumsum(0) - 1
        scores = self._product(self._states(ids, positions, self._cache.prefill)[last])
        rows = [
            [
                _Row(index, request, place * self._members + member, length, length)
                for member, (index, request) in enumerate(family)
            ]
            for (place, family), length in zip(begun, lengths, strict=True)
        ]
        self._rows += [row for family in rows for row in family]
        begin = [[row for row in family if not row.pending] for family in rows]
        counts = torch.tensor(list(map(len, begin)))
        return scores.repeat_interleave(counts, 0), [row for family in begin for row in family]

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
