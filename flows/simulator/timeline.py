"""The stages of a run on a clock that is not the wall's: when each begins and ends.

What may begin is the run's own ``Schedule`` to say, or the run's order where nothing overlaps. Stages that
compute on this machine share its cores evenly; how long a stage takes by itself is the caller's to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from flows.execution.schedule import Turn
from flows.stage_table.stages import Node


@dataclass(frozen=True)
class Work:
    """What a stage takes by itself."""

    seconds: float
    """Of the stage."""
    around: float = 0.0
    """Of the run's own process afterwards, which sees to one stage at a time: records, pages, the flow."""
    cores: int = 0
    """Cores of this machine that it computes on; 0: none of them."""


@dataclass(frozen=True)
class Made:
    """A stage that was made, in seconds from the run's beginning."""

    node: Node
    ready: float
    begin: float
    end: float
    settled: float
    """When the run had seen to it, and its readers could begin."""


class Order(Protocol):
    """As ``flows.execution.schedule.Schedule``."""

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""

    def turns(self, now: float) -> list[Turn]:
        """What may begin now."""

    def end(self, place: str, now: float) -> None:
        """That stage is done."""


class InTurn:
    """One stage after the other, in the run's order."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._waiting = deque(nodes)
        self._busy = False

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return not self._waiting and not self._busy

    def turns(self, now: float) -> list[Turn]:
        """The next one, where none is under way."""
        if self._busy or not self._waiting:
            return []
        self._busy = True
        return [Turn(self._waiting.popleft(), now)]

    def end(self, place: str, now: float) -> None:
        """That stage is done."""
        self._busy = False


@dataclass
class _Job:
    turn: Turn
    begin: float
    left: float
    cores: int
    around: float = 0.0
    end: float = 0.0


def timeline(order: Order, work: Callable[[Node, float], Work], cores: int = 0) -> list[Made]:
    """Every stage in the order in which the run is done with them.

    ``work(node, now)`` is asked when a stage begins. ``cores``: of this machine; 0: as many as are asked for.
    """
    now, made = 0.0, []
    under_way: list[_Job] = []
    settling: deque[_Job] = deque()
    while not order.finished:
        if not settling:
            for turn in order.turns(now):
                took = work(turn.node, now)
                under_way.append(_Job(turn, now, took.seconds, took.cores, took.around))
        active = [*under_way, *list(settling)[:1]]
        asked = sum(job.cores for job in active)
        pace = min(1.0, cores / asked) if cores and asked else 1.0
        paces = [pace if job.cores else 1.0 for job in active]
        passed = min(job.left / each for job, each in zip(active, paces, strict=True))
        now += passed
        for job, each in zip(active, paces, strict=True):
            left = job.left - passed * each
            job.left = left if left > 1e-12 * max(1.0, now) else 0.0
        if settling and not settling[0].left:
            job = settling.popleft()
            order.end(job.turn.node.place, now)
            made.append(Made(job.turn.node, job.turn.ready, job.begin, job.end, now))
        for job in [each for each in under_way if not each.left]:
            under_way.remove(job)
            settling.append(_Job(job.turn, job.begin, job.around, min(1, job.cores), end=now))
    return made
