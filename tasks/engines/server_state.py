"""A server of a pool, what is known of it, and how long one waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tasks.engines.base import EngineFailure
from tasks.engines.vllm_http import ServerClient
from tasks.engines.vllm_launch import LocalServer

log = logging.getLogger(__name__)


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
    look: float = 3.0
    """Seconds between two looks at the list of servers, where it may change."""
    overdue: float = 2.0
    """Medians of what a piece has taken, after which one that is under way is sent a second time."""
    overdue_least: float = 1.0
    """Seconds before which none is."""
    overdue_known: int = 5
    """Pieces that must have been finished before a median is believed."""

    def wait(self, failures: int) -> float:
        """Seconds before the next try after so many failures in a row."""
        return min(self.longest, self.first * self.growth ** max(0, failures - 1))


@dataclass(eq=False)
class Held:
    """A piece of work that a server has."""

    group: int
    copy: bool
    """Whether another server had it first."""
    since: float
    """When it was given, or begun, on the monotonic clock."""
    begun: bool = False


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
    leaving: bool = False
    """No longer listed: it ends what it holds and gets nothing more."""
    held: dict[int, Held] = field(default_factory=dict)
    """Pieces of work under way."""
    adapts: bool = False
    weights: str | None = None
    """Those that it was last verified to hold; ``None``: nothing is known of it."""
    before: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))
    """Scores of the probe: its own, the trainer's."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ready(self) -> bool:
        """Whether it may be given work."""
        return self.up and not self.leaving

    @property
    def waits(self) -> bool:
        """Whether it is to be tried again, sooner or later."""
        return not (self.up or self.out or self.leaving)

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
