"""Work spread over servers, some of which fail: what a lost one held goes to the others.

Work comes in groups, the samples of one problem, that stay together on one server, which computes their
prompt once. The server with the least work under way is given the next group; a piece that follows another
goes to the server that did that one. A lost one costs the pieces that it held; it is tried again after a
while, with its policy. What was received is kept.
"""

from __future__ import annotations

import collections
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from tasks.engines.base import POLL_SECONDS, EngineFailure, Response
from tasks.engines.http import Lost
from tasks.engines.vllm_http import ServerClient
from tasks.engines.vllm_launch import LocalServer

log = logging.getLogger(__name__)
T = TypeVar("T")
Further = Callable[[], Sequence[tuple[int, int | None]] | None]


@dataclass(frozen=True)
class Patience:
    """How long to wait for a lost server."""

    first: float = 1.0
    """Seconds before it is tried again."""
    growth: float = 2.0
    """By which the wait grows with each failure."""
    longest: float = 60.0
    """Seconds between two tries at most."""
    tries: int = 5
    """Failures in a row after which a batch fails rather than wait for it, where no other server is left."""
    watch: float = 5.0
    """Seconds between two checks of a server's health."""
    losses: int = 8
    """Servers that may be lost under one piece of work before it is held to be the cause."""

    def wait(self, failures: int) -> float:
        """Seconds before the next try after so many failures in a row."""
        return min(self.longest, self.first * self.growth ** max(0, failures - 1))


@dataclass(eq=False)
class ServerState:
    """A server of the pool, and what is known of it."""

    client: ServerClient
    local: LocalServer | None
    """Its process, where it is ours."""
    up: bool = False
    reason: str = "not started"
    """Why it is not up."""
    out: bool = False
    """Left out: it will not do, however often it is asked."""
    failures: int = 0
    """In a row."""
    again: float = 0.0
    """When to try it again, on the monotonic clock."""
    epoch: int = 0
    """Grows when it is lost: what was under way before counts no more."""
    held: dict[int, int] = field(default_factory=dict)
    """Pieces of work under way, with their groups."""
    adapts: bool = False
    weights: str | None = None
    """Those that it was last verified to hold; ``None``: nothing is known of it."""
    before: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))
    """Scores of the probe: its own, the trainer's."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lose(self, reason: str, patience: Patience) -> None:
        """It cannot be used until it is tried again."""
        self.up, self.reason = False, reason
        self.failures += 1
        self.again = time.monotonic() + patience.wait(self.failures)

    def leave_out(self, reason: str) -> None:
        """It is not tried again with this policy."""
        self.up, self.out, self.reason = False, True, reason
        log.warning("left out: %s", reason)


def none_left(states: Iterable[ServerState]) -> EngineFailure:
    """The error for when no server is left."""
    return EngineFailure("no server is left: " + "; ".join(state.reason for state in states))


class Dispatch:
    """One batch of work. Everything but the work itself happens in the thread that calls ``run``."""

    def __init__(
        self,
        states: Sequence[ServerState],
        groups: Iterable[Sequence[int]],
        capacity: int,
        work: Callable[[ServerClient, int], Response],
        reconnect: Callable[[ServerState], None],
        finished: Callable[[int, Response], None],
        patience: Patience,
        more: Further | None = None,
    ) -> None:
        """``work(client, index)`` does one piece, or raises ``Lost`` or ``EngineFailure``.

        ``reconnect(state)`` tries a lost server again and notes in its state what came of it, and
        ``finished(index, response)`` hears of each piece. A server with ``capacity`` pieces under way is
        given no further group. ``more()`` tells of pieces that have come up, with those that they follow,
        until it says that none come.
        """
        self._states = states
        self._waiting = collections.deque(enumerate(map(list, groups)))
        self._groups = itertools.count(len(self._waiting))
        self._count = sum(len(group) for _, group in self._waiting)
        self._more = more
        self._earlier: dict[int, int | None] = {}
        """What each piece that came up follows."""
        self._did: dict[int, ServerState] = {}
        self._capacity = capacity
        self._work = work
        self._reconnect = reconnect
        self._finished = finished
        self._patience = patience
        self._done: dict[int, Response] = {}
        self._losses: collections.Counter[int] = collections.Counter()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._reconnecting: set[ServerState] = set()

    def run(self) -> dict[int, Response]:
        """Every piece's result. Raises ``EngineFailure``."""
        for state in self._states:
            state.held.clear()
        pools = {state: ThreadPoolExecutor(self._capacity) for state in self._states}
        reconnects = ThreadPoolExecutor(len(self._states))
        for state in self._states:
            threading.Thread(target=self._watch, args=(state,), daemon=True).start()
        try:
            while self._more or len(self._done) < self._count:
                self._come_up()
                self._assign(pools)
                self._reconnect_due(reconnects)
                try:
                    self._events.get(timeout=self._wait())()
                except queue.Empty:
                    continue
        finally:
            self._ended.set()
            for state in self._states:
                if state.held:
                    state.client.abort()
            for pool in (*pools.values(), reconnects):
                pool.shutdown(wait=False, cancel_futures=True)
        return self._done

    def _wait(self) -> float:
        """Seconds until a lost server is to be tried again, or its health checked."""
        now = time.monotonic()
        due = [state.again - now for state in self._states if self._may_reconnect(state)]
        return max(0.0, min([POLL_SECONDS if self._more else self._patience.watch, *due]))

    def _come_up(self) -> None:
        found = self._more() if self._more else ()
        if found is None:
            self._more = None
        for index, earlier in found or ():
            self._earlier[index] = earlier
            self._waiting.append((next(self._groups), [index]))
            self._count += 1

    def _assign(self, pools: Mapping[ServerState, ThreadPoolExecutor]) -> None:
        while self._waiting:
            ready = [state for state in self._states if state.up and len(state.held) < self._capacity]
            if not ready:
                return
            group, members = self._waiting.popleft()
            earlier = self._earlier.get(members[0])
            before = None if earlier is None else self._did.get(earlier)
            state = before if before in ready else min(ready, key=lambda state: len(state.held))
            for index in members:
                state.held[index] = group
                future = pools[state].submit(self._try, state, state.epoch, index)
                self._when_done(future, partial(self._received, state, state.epoch, index))

    def _try(self, state: ServerState, epoch: int, index: int) -> Response | None:
        """``None`` where it is not wanted any more."""
        return self._work(state.client, index) if epoch == state.epoch and not self._ended.is_set() else None

    def _when_done(self, future: Future[T], hear: Callable[[Future[T]], None]) -> None:
        """Have the thread of ``run`` hear of it."""

        def pass_on(done: Future[T]) -> None:
            if not done.cancelled():
                self._events.put(partial(hear, done))

        future.add_done_callback(pass_on)

    def _received(self, state: ServerState, epoch: int, index: int, future: Future[Response | None]) -> None:
        error = future.exception()
        if isinstance(error, Lost):
            self._lost(state, epoch, str(error))
            return
        made = future.result()  # raises what else went wrong
        if made is None or index in self._done:
            return
        self._done[index], self._did[index] = made, state
        if epoch == state.epoch:
            state.held.pop(index, None)
            state.failures = 0
        self._finished(index, made)

    def _lost(self, state: ServerState, epoch: int, reason: str) -> None:
        if epoch != state.epoch:
            return
        state.epoch += 1
        state.lose(reason, self._patience)
        held, state.held = state.held, {}
        log.warning("lost %s with %d requests, which go to the others", reason, len(held))
        groups: dict[int, list[int]] = {}
        for index, group in held.items():
            if index not in self._done:
                groups.setdefault(group, []).append(index)
                self._losses[index] += 1
        state.client.abort()
        worst = max(self._losses.values(), default=0)
        if worst > self._patience.losses:
            raise EngineFailure(f"{worst} servers were lost under the same request; the last: {reason}")
        self._waiting.extendleft(reversed(groups.items()))

    def _may_reconnect(self, state: ServerState) -> bool:
        return not state.up and not state.out and state not in self._reconnecting

    def _reconnect_due(self, reconnects: ThreadPoolExecutor) -> None:
        """Reconnect the servers whose wait is over; fail where none is left to wait for."""
        up = any(state.up for state in self._states)
        given_up = all(s.out or s.failures >= self._patience.tries for s in self._states)
        if not up and given_up and not self._reconnecting:
            raise none_left(self._states)
        for state in self._states:
            if self._may_reconnect(state) and state.again <= time.monotonic():
                self._reconnecting.add(state)
                self._when_done(reconnects.submit(self._reconnect, state), partial(self._back, state))

    def _back(self, state: ServerState, future: Future[None]) -> None:
        self._reconnecting.discard(state)
        future.result()
        if state.up:
            log.warning("back: %s", state.client.address)

    def _watch(self, state: ServerState) -> None:
        """Check a server's health as long as the work goes on."""
        while not self._ended.wait(self._patience.watch):
            epoch = state.epoch
            if state.up and state.held:
                try:
                    state.client.healthy()
                except (Lost, EngineFailure) as error:
                    self._events.put(partial(self._lost, state, epoch, str(error)))
