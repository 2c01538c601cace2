"""Work spread over servers, some of which fail: what a lost one held goes to the others.

Work comes in groups, the samples of one problem, that stay together on one server, which computes their
prompt once. The server with the least work under way is given the next group. A lost one costs the pieces
that it held; it is tried again after a while, with its policy. What was received is kept.
"""

from __future__ import annotations

import collections
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from tasks.engines.base import EngineFailure, Response
from tasks.engines.http import Lost

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long a lost server is waited for."""

    first: float = 1.0
    """Seconds before it is tried again."""
    growth: float = 2.0
    """By which the wait grows with each failure."""
    longest: float = 60.0
    """Seconds between two tries at most."""
    tries: int = 5
    """Failures in a row after which nobody waits for it any more, where no other server is left."""
    watch: float = 5.0
    """Seconds between two looks at a server's health."""
    losses: int = 8
    """Servers that may be lost under one piece of work before it is held to be the cause."""

    def wait(self, failures: int) -> float:
        """Seconds before the next try after so many failures in a row."""
        return min(self.longest, self.first * self.growth ** max(0, failures - 1))


class Server(Protocol):
    """What does the work. Its methods raise ``Lost`` where another may do better."""

    address: str

    def healthy(self) -> None: ...

    def hang_up(self) -> None: ...


@dataclass
class Post:
    """A server's place in the crew."""

    server: Any
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

    def lose(self, reason: str, patience: Patience) -> None:
        """It cannot be used until it is tried again."""
        self.up, self.reason = False, reason
        self.failures += 1
        self.again = time.monotonic() + patience.wait(self.failures)

    def leave_out(self, reason: str) -> None:
        """It is not tried again with this policy."""
        self.up, self.out, self.reason = False, True, reason
        log.warning("left out: %s", reason)


def nobody(posts: Iterable[Post]) -> EngineFailure:
    """What is said when no server is left."""
    return EngineFailure("no server is left: " + "; ".join(post.reason for post in posts))


class Dispatch:
    """One batch of work. Everything but the work itself happens in the thread that calls ``run``."""

    def __init__(
        self,
        posts: Sequence[Post],
        groups: Iterable[Sequence[int]],
        capacity: int,
        work: Callable[[Any, int], Response],
        revive: Callable[[Post], None],
        patience: Patience,
    ) -> None:
        """``work(server, index)`` does one piece, or raises ``Lost`` or ``EngineFailure``. ``revive(post)``
        tries a lost server again and notes in its post what came of it. A server with ``capacity`` pieces
        under way is given no further group.
        """
        self._posts = posts
        self._waiting = collections.deque((g, list(group)) for g, group in enumerate(groups))
        self._count = sum(len(group) for _, group in self._waiting)
        self._capacity = capacity
        self._work = work
        self._revive = revive
        self._patience = patience
        self._done: dict[int, Response] = {}
        self._losses: collections.Counter[int] = collections.Counter()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._reviving: set[int] = set()
        self._finished: Callable[[int, Response], None]

    def run(self, finished: Callable[[int, Response], None]) -> dict[int, Response]:
        """Every piece's result; ``finished(index, result)`` hears of each. Raises ``EngineFailure``."""
        self._finished = finished
        for post in self._posts:
            post.held.clear()
        pools = [ThreadPoolExecutor(self._capacity) for _ in self._posts]
        menders = ThreadPoolExecutor(len(self._posts))
        watchers = [threading.Thread(target=self._watch, args=(post,), daemon=True) for post in self._posts]
        for watcher in watchers:
            watcher.start()
        try:
            while len(self._done) < self._count:
                self._assign(pools)
                self._mend(menders)
                try:
                    self._events.get(timeout=self._wait())()
                except queue.Empty:
                    continue
        finally:
            self._ended.set()
            for post in self._posts:
                if post.held:
                    post.server.hang_up()
            for pool in (*pools, menders):
                pool.shutdown(wait=False, cancel_futures=True)
        return self._done

    def _wait(self) -> float:
        """Seconds until a lost server is due, or a look around."""
        now = time.monotonic()
        due = [p.again - now for i, p in enumerate(self._posts) if self._mendable(i, p)]
        return max(0.0, min([self._patience.watch, *due]))

    def _assign(self, pools: Sequence[ThreadPoolExecutor]) -> None:
        while self._waiting:
            ready = [i for i, p in enumerate(self._posts) if p.up and len(p.held) < self._capacity]
            if not ready:
                return
            chosen = min(ready, key=lambda i: len(self._posts[i].held))
            post, (group, members) = self._posts[chosen], self._waiting.popleft()
            for index in members:
                post.held[index] = group
                future = pools[chosen].submit(self._try, post, post.epoch, index)
                future.add_done_callback(self._tell(post, post.epoch, index))

    def _try(self, post: Post, epoch: int, index: int) -> Response | None:
        """``None`` where it is not wanted any more."""
        return self._work(post.server, index) if epoch == post.epoch and not self._ended.is_set() else None

    def _tell(self, post: Post, epoch: int, index: int) -> Callable[[Future[Response | None]], None]:
        def heard(future: Future[Response | None]) -> None:
            if not future.cancelled():
                self._events.put(lambda: self._received(post, epoch, index, future))

        return heard

    def _received(self, post: Post, epoch: int, index: int, future: Future[Response | None]) -> None:
        error = future.exception()
        if isinstance(error, Lost):
            self._lost(post, epoch, str(error))
            return
        made = future.result()  # raises what else went wrong
        if made is None or index in self._done:
            return
        self._done[index] = made
        if epoch == post.epoch:
            post.held.pop(index, None)
            post.failures = 0
        self._finished(index, made)

    def _lost(self, post: Post, epoch: int, reason: str) -> None:
        if epoch != post.epoch:
            return
        post.epoch += 1
        post.lose(reason, self._patience)
        held, post.held = post.held, {}
        log.warning("lost %s with %d requests, which go to the others", reason, len(held))
        groups: dict[int, list[int]] = {}
        for index, group in held.items():
            if index not in self._done:
                groups.setdefault(group, []).append(index)
                self._losses[index] += 1
        post.server.hang_up()
        worst = max(self._losses.values(), default=0)
        if worst > self._patience.losses:
            raise EngineFailure(f"{worst} servers were lost under the same request; the last: {reason}")
        self._waiting.extendleft(reversed(groups.items()))

    def _mendable(self, place: int, post: Post) -> bool:
        return not post.up and not post.out and place not in self._reviving

    def _mend(self, menders: ThreadPoolExecutor) -> None:
        """Try again whoever is due; give up where nobody is left to wait for."""
        up = any(post.up for post in self._posts)
        given_up = all(p.out or p.failures >= self._patience.tries for p in self._posts)
        if not up and given_up and not self._reviving:
            raise nobody(self._posts)
        for place, post in enumerate(self._posts):
            if self._mendable(place, post) and post.again <= time.monotonic():
                self._reviving.add(place)
                future = menders.submit(self._revive, post)
                future.add_done_callback(self._mended(place))

    def _mended(self, place: int) -> Callable[[Future[None]], None]:
        def heard(future: Future[None]) -> None:
            if not future.cancelled():
                self._events.put(lambda: self._back(place, future))

        return heard

    def _back(self, place: int, future: Future[None]) -> None:
        self._reviving.discard(place)
        future.result()
        post = self._posts[place]
        if post.up:
            log.warning("back: %s", post.server.address)

    def _watch(self, post: Post) -> None:
        """Look at a server's health as long as the work goes on."""
        while not self._ended.wait(self._patience.watch):
            epoch = post.epoch
            if post.up and post.held:
                try:
                    post.server.healthy()
                except (Lost, EngineFailure) as error:
                    reason = str(error)
                    self._events.put(lambda epoch=epoch, reason=reason: self._lost(post, epoch, reason))  # type: ignore[misc]
