"""Work spread over servers, some of which fail, come and go: what a lost one held goes to the others.

Work comes in groups, the samples of one problem, that stay together on one server, which computes their
prompt once. The server with the least work under way is given the next group; a piece that follows another
goes to the server that did that one. A lost one costs the pieces that it held; it is tried again after a
while, with its policy. What was received is kept. Where nothing waits and a server is idle, it is given what
takes long elsewhere as well, and the first answer counts.
"""

from __future__ import annotations

import collections
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

from tasks.engines.base import POLL_SECONDS, EngineFailure, Request, Response
from tasks.engines.http import Lost
from tasks.engines.server_state import Held, Patience, ServerState
from tasks.engines.stragglers import Stragglers
from tasks.engines.vllm_http import ServerClient

log = logging.getLogger(__name__)
T = TypeVar("T")
Further = Callable[[], Sequence[tuple[int, int | None]] | None]
BESIDE = 64
"""Servers that are connected anew at the same time at most."""


class Members(Protocol):
    """See ``members.Members``."""

    states: list[ServerState]

    @property
    def changes(self) -> bool:
        """Whether servers may come and go."""

    def look(self) -> tuple[str, ...]:
        """The addresses that are listed now; called from another thread."""

    def follow(self, addresses: Iterable[str]) -> None:
        """Have ``states`` be as listed."""

    def failure(self, patience: Patience) -> EngineFailure | None:
        """What to fail with, where no server is left to wait for."""


class Dispatch:
    """One batch of work. Everything but the work itself happens in the thread that calls ``run``."""

    def __init__(
        self,
        members: Members,
        groups: Iterable[Sequence[int]],
        capacity: int,
        work: Callable[[ServerClient, int], Response],
        reconnect: Callable[[ServerState], None],
        finished: Callable[[int, Response], None],
        patience: Patience,
        more: Further | None = None,
    ) -> None:
        """``work(client, index)`` does one piece, or raises ``Lost`` or ``EngineFailure``; done by two
        servers, it is the same piece, and ``client.abort(index)`` ends it.

        ``reconnect(state)`` tries a lost server again and notes in its state what came of it, and
        ``finished(index, response)`` hears of each piece. A server with ``capacity`` pieces under way is
        given no further group. ``more()`` tells of pieces that have come up, with those that they follow,
        until it says that none come.
        """
        self._members = members
        self._states = members.states
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
        self._stragglers = Stragglers(self._states, patience)
        self._done: dict[int, Response] = {}
        self._losses: collections.Counter[int] = collections.Counter()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._reconnecting: set[ServerState] = set()
        self._pools: dict[ServerState, ThreadPoolExecutor] = {}
        self._beside = ThreadPoolExecutor(BESIDE)
        self._next_look = time.monotonic() + patience.look if members.changes else float("inf")

    def run(self) -> dict[int, Response]:
        """Every piece's result. Raises ``EngineFailure``."""
        for state in self._states:
            state.held.clear()
        try:
            while self._more or len(self._done) < self._count:
                self._come_up()
                self._look_due()
                self._assign()
                self._send_twice()
                self._reconnect_due()
                try:
                    self._events.get(timeout=self._wait())()
                except queue.Empty:
                    continue
        finally:
            self._ended.set()
            for state in self._pools:
                if state.held:
                    state.client.abort()
                    state.held.clear()
            for pool in (*self._pools.values(), self._beside):
                pool.shutdown(wait=False, cancel_futures=True)
        return self._done

    def _wait(self) -> float:
        """Seconds until something is due that no event tells of."""
        now = time.monotonic()
        due = [state.again - now for state in self._states if self._may_reconnect(state)]
        due += [self._next_look - now, POLL_SECONDS if self._more else self._patience.watch]
        if not self._waiting and self._stragglers.idle(self._capacity):
            due.append(self._stragglers.wait())
        return max(0.0, min(due))

    def _come_up(self) -> None:
        found = self._more() if self._more else ()
        if found is None:
            self._more = None
        for index, earlier in found or ():
            self._earlier[index] = earlier
            self._waiting.append((next(self._groups), [index]))
            self._count += 1

    def _look_due(self) -> None:
        """Look at the list of servers, beside the work."""
        if time.monotonic() >= self._next_look:
            self._next_look = float("inf")
            self._when_done(self._beside.submit(self._members.look), self._looked)

    def _looked(self, future: Future[tuple[str, ...]]) -> None:
        self._next_look = time.monotonic() + self._patience.look
        self._members.follow(future.result())

    def _assign(self) -> None:
        while self._waiting:
            ready = [state for state in self._states if state.ready and len(state.held) < self._capacity]
            if not ready:
                return
            group, given = self._waiting.popleft()
            members = [index for index in given if index not in self._done]
            if not members:
                continue
            earlier = self._earlier.get(members[0])
            before = None if earlier is None else self._did.get(earlier)
            state = before if before in ready else min(ready, key=lambda state: len(state.held))
            for index in members:
                self._give(state, index, Held(group, False, time.monotonic()))

    def _send_twice(self) -> None:
        """Give idle servers what is overdue on others."""
        idle = [] if self._waiting else self._stragglers.idle(self._capacity)
        for index, held in self._stragglers.overdue() if idle else ():
            others = [s for s in idle if index not in s.held and len(s.held) < self._capacity]
            if others:
                state = min(others, key=lambda state: len(state.held))
                self._give(state, index, Held(held.group, True, time.monotonic()))

    def _give(self, state: ServerState, index: int, held: Held) -> None:
        if state not in self._pools:
            self._pools[state] = ThreadPoolExecutor(self._capacity)
            threading.Thread(target=self._watch, args=(state,), daemon=True).start()
        state.held[index] = held
        future = self._pools[state].submit(self._try, state, state.epoch, index, held)
        self._when_done(future, partial(self._received, state, state.epoch, index))

    def _try(self, state: ServerState, epoch: int, index: int, held: Held) -> Response | None:
        """``None`` where it is not wanted any more."""
        if epoch != state.epoch or index in self._done or self._ended.is_set():
            return None
        held.since, held.begun = time.monotonic(), True
        return self._work(state.client, index)

    def _when_done(self, future: Future[T], hear: Callable[[Future[T]], None]) -> None:
        """Have the thread of ``run`` hear of it."""

        def pass_on(done: Future[T]) -> None:
            if not done.cancelled():
                self._events.put(partial(hear, done))

        future.add_done_callback(pass_on)

    def _received(self, state: ServerState, epoch: int, index: int, future: Future[Response | None]) -> None:
        if index in self._done:  # somebody else was first
            if epoch == state.epoch:
                state.held.pop(index, None)
            return
        error = future.exception()
        if isinstance(error, Lost):
            self._lost(state, epoch, str(error))
            return
        made = future.result()  # raises what else went wrong
        if made is None:
            return
        self._done[index], self._did[index] = made, state
        if epoch == state.epoch:
            self._stragglers.learn(state.held[index])
            state.failures = 0
        for other in self._states:
            if other.held.pop(index, None) and other is not state:
                other.client.abort(index)
        self._finished(index, made)

    def _lost(self, state: ServerState, epoch: int, reason: str) -> None:
        if epoch != state.epoch:
            return
        state.epoch += 1
        state.lose(reason, self._patience)
        held, state.held = state.held, {}
        log.warning("lost %s with %d requests, which go to the others", reason, len(held))
        groups: dict[int, list[int]] = {}
        for index, piece in held.items():
            self._losses[index] += 1
            if not any(index in other.held for other in self._states):
                groups.setdefault(piece.group, []).append(index)
        state.client.abort()
        worst = max(self._losses.values(), default=0)
        if worst > self._patience.losses:
            raise EngineFailure(f"{worst} servers were lost under the same request; the last: {reason}")
        self._waiting.extendleft(reversed(groups.items()))

    def _may_reconnect(self, state: ServerState) -> bool:
        return state.waits and state not in self._reconnecting

    def _reconnect_due(self) -> None:
        """Reconnect the servers whose wait is over; fail where none is left to wait for."""
        failure = self._members.failure(self._patience)
        if failure and not self._reconnecting:
            raise failure
        for state in self._states:
            if self._may_reconnect(state) and state.again <= time.monotonic():
                self._reconnecting.add(state)
                self._when_done(self._beside.submit(self._reconnect, state), partial(self._back, state))

    def _back(self, state: ServerState, future: Future[None]) -> None:
        self._reconnecting.discard(state)
        future.result()
        if state.ready:
            log.warning("up: %s", state.client.address)

    def _watch(self, state: ServerState) -> None:
        """Check a server's health as long as the work goes on."""
        while not self._ended.wait(self._patience.watch):
            epoch = state.epoch
            if state.up and state.held:
                try:
                    state.client.healthy()
                except (Lost, EngineFailure) as error:
                    self._events.put(partial(self._lost, state, epoch, str(error)))


def groups(requests: Sequence[Request], servers: int) -> list[list[int]]:
    """Requests of one prompt together, unless that leaves servers without any."""
    servers = max(1, servers)
    found: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        found.setdefault(request.prompt_ids, []).append(index)
    most = -(-len(requests) // servers)
    return [g[first : first + most] for g in found.values() for first in range(0, len(g), most)]
