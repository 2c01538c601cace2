"""A round's responses, decoded on paper by servers, some of which are lost and come back.

All of it is our own model. A server decodes up to ``capacity`` responses side by side, a token of each in a
step of ``fixed + each · n`` seconds where n are under way. Work comes in groups as ``tasks.engines.dispatch``
gives it out: the server that holds least is given the next, one that holds ``capacity`` none; what a lost one
held is begun anew by the others, and comes first.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from params.base import BadInput
from tasks.core.seeds import numpy_generator

Groups = Sequence[Sequence[float]]
"""Tokens of each response, by problem."""
NEVER = (math.inf, math.inf)
CLOSE = 1e-9
"""Steps within which two responses end together."""
MOST_LOST = 20
"""Times that a response may be begun anew, on average."""
LAST = 0.1
"""The share of the answers that is called the last ones."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of a decoding step, and of a prompt."""

    fixed: float
    each: float
    """For each response under way."""
    prompt: float = 0.0
    """Of a problem's prompt, once for all of its responses, before any is decoded."""

    def of(self, responses: int) -> float:
        """Of a step with so many under way."""
        return self.fixed + self.each * responses

    def rate(self, responses: int) -> float:
        """Tokens a second with so many under way."""
        return responses / self.of(responses)

    def scaled(self, factor: float) -> StepTime:
        """The same, so many times as long."""
        return StepTime(self.fixed * factor, self.each * factor, self.prompt * factor)


@dataclass(frozen=True)
class Servers:
    """What samples."""

    speeds: tuple[float, ...] = (1.0,)
    """Of each, as a multiple of the step's."""
    capacity: int = 128
    """Responses that one decodes side by side."""
    whole_groups: bool = False
    """Whether a group's places are free only when all of its responses are whole, as in the transformers
    engine."""
    dealt: bool = False
    """Whether the groups are dealt out beforehand, in equal parts, as to shards."""


@dataclass(frozen=True)
class Outages:
    """When servers are lost: at a rate, each for the same time."""

    per_hour: float = 0.0
    """Of one server, while it is up."""
    seconds: float = 60.0
    """Until it is back."""
    seed: int = 0

    def of(self, server: int) -> Iterator[tuple[float, float]]:
        """From when to when it is away, one time after the other."""
        draws, now = numpy_generator(self.seed, "simulate", 0, "outages", server), 0.0
        while self.per_hour:
            now += float(draws.exponential(3600.0 / self.per_hour))
            yield now, now + self.seconds
            now += self.seconds


@dataclass(frozen=True)
class Sampled:
    """How a round was sampled."""

    seconds: float
    last: float
    """Seconds from when all but a tenth of the responses were whole to when all were."""
    idle: tuple[float, ...]
    """Of each server, the share of ``seconds`` in which it decoded nothing."""
    lost: int
    """Responses that were begun anew."""


@dataclass
class _Server:
    number: int
    speed: float
    room: int
    outages: Iterator[tuple[float, float]]
    away: tuple[float, float] = (0.0, 0.0)
    up: bool = True
    steps: float = 0.0
    """Made so far."""
    at: float = 0.0
    """When that was so."""
    under_way: list[tuple[float, int]] = field(default_factory=list)
    """By the step after which each is whole."""
    queue: deque[int] = field(default_factory=deque)
    held: dict[int, None] = field(default_factory=dict)
    busy: float = 0.0

    def look(self, now: float) -> None:
        """Whether it is up now, and when it is lost next."""
        while self.away[1] <= now:
            self.away = next(self.outages, NEVER)
        self.up = now < self.away[0]

    def event(self, step: StepTime) -> float:
        """When it next ends a response, is lost or comes back."""
        if not self.up:
            return self.away[1]
        if not self.under_way:
            return math.inf
        left = (self.under_way[0][0] - self.steps) * step.of(len(self.under_way)) / self.speed
        return min(self.at + max(0.0, left), self.away[0])

    def move(self, now: float, step: StepTime) -> None:
        """Decode until then."""
        if self.up and self.under_way:
            self.steps += (now - self.at) * self.speed / step.of(len(self.under_way))
            self.busy += now - self.at
        self.at = now


def sample(
    groups: Groups, step: StepTime, servers: Servers, now: float = 0.0, outages: Outages | None = None
) -> Sampled:
    """Decode them all, beginning at ``now`` on the clock of the ``outages``."""
    return _Sampling(groups, step, servers, outages or Outages()).run(now)


class _Sampling:
    """One batch."""

    def __init__(self, groups: Groups, step: StepTime, servers: Servers, outages: Outages) -> None:
        if servers.whole_groups:  # what does not fit side by side is cut, as the engine cuts it
            most = servers.capacity
            groups = [part[at : at + most] for part in groups for at in range(0, len(part), most)]
        self._lengths = [length for group in groups for length in group]
        self._of = [number for number, group in enumerate(groups) for _ in group]
        self._left = [len(group) for group in groups]
        self._places = list(self._left)
        """What each group takes on its server."""
        self._step, self._asked = step, servers
        self._servers = [
            _Server(number, speed, servers.capacity, outages.of(number))
            for number, speed in enumerate(servers.speeds)
        ]
        places = iter(range(len(self._lengths)))
        self._waiting = deque([next(places) for _ in group] for group in groups)
        self._ends: list[float] = []
        self._lost = 0
        self._now = 0.0

    def run(self, began: float) -> Sampled:
        """All of it, from then on."""
        self._now = began + self._step.prompt * math.ceil(len(self._left) / len(self._servers))
        if self._asked.dealt:
            self._deal()
        while len(self._ends) < len(self._lengths):
            self._assign()
            server = min(self._servers, key=lambda each: each.event(self._step))
            self._now = server.event(self._step)
            server.move(self._now, self._step)
            if not server.up:
                server.look(self._now)
            elif self._now >= server.away[0]:
                self._lose(server)
            else:
                self._end(server)
        return self._told(began)

    def _deal(self) -> None:
        parts = np.array_split(np.arange(len(self._left)), len(self._servers))
        for part, server in zip(parts, self._servers, strict=True):
            self._give(server, [place for _ in part for place in self._waiting.popleft()])

    def _assign(self) -> None:
        """Groups to servers, in order."""
        for server in self._servers:
            if not server.held:
                server.look(self._now)
        while self._waiting:
            ready = [each for each in self._servers if each.up and len(each.held) < self._asked.capacity]
            if not ready:
                return
            self._give(min(ready, key=lambda each: len(each.held)), self._waiting.popleft())

    def _give(self, server: _Server, places: list[int]) -> None:
        server.move(self._now, self._step)
        server.queue.extend(places)
        server.held |= dict.fromkeys(places)
        self._begin(server)

    def _begin(self, server: _Server) -> None:
        """Those in its queue for which there is room."""
        while server.queue and server.room > 0:
            group = self._of[server.queue[0]]
            members = [server.queue[0]]
            if self._asked.whole_groups:
                members = [place for place in server.queue if self._of[place] == group]
                if server.room < len(members):
                    return
                self._places[group] = len(members)
            for place in members:
                server.queue.popleft()
                heapq.heappush(server.under_way, (server.steps + self._lengths[place], place))
            server.room -= len(members)

    def _end(self, server: _Server) -> None:
        """Its responses that are whole."""
        ended: list[int] = []
        while server.under_way and (not ended or server.under_way[0][0] <= server.steps + CLOSE):
            ended.append(heapq.heappop(server.under_way)[1])
        for place in ended:
            server.held.pop(place)
            self._ends.append(self._now)
            group = self._of[place]
            self._left[group] -= 1
            if not self._asked.whole_groups:
                server.room += 1
            elif not self._left[group]:
                server.room += self._places[group]
        self._begin(server)

    def _lose(self, server: _Server) -> None:
        """What it held goes to the others."""
        groups: dict[int, list[int]] = {}
        for place in server.held:
            groups.setdefault(self._of[place], []).append(place)
        self._lost += len(server.held)
        if self._lost > MOST_LOST * len(self._lengths):
            raise BadInput(
                "--losses-per-hour: servers are lost sooner than they sample; expected a lower rate"
            )
        self._waiting.extendleft(reversed(groups.values()))
        server.under_way, server.held, server.queue = [], {}, deque()
        server.up, server.room = False, self._asked.capacity

    def _told(self, began: float) -> Sampled:
        whole = self._now - began
        nearly = self._ends[max(0, math.ceil((1 - LAST) * len(self._ends)) - 1)]
        idle = tuple(max(0.0, min(1.0, 1 - each.busy / whole)) if whole else 0.0 for each in self._servers)
        return Sampled(whole, self._now - nearly, idle, self._lost)
