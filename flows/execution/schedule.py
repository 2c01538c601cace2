"""Which stages may begin now: those whose inputs are done and whose resource is free.

Of several that wait for one resource, the earliest in the run's order goes first. The schedule runs nothing:
whoever does tells it what has begun and what has ended.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from flows.stage_table.stages import Node
from tasks.artefacts.role import Resource


@dataclass(frozen=True)
class Turn:
    """A stage that may begin, and what kept it waiting."""

    node: Node
    ready: float
    """When the last of its inputs was done, on the caller's clock."""
    waited_for: str | None = None
    """Of the places that had its resource meanwhile the one that had it longest; None where it was free."""


class Schedule:
    """The stages of a run on their way from waiting to done."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        """``nodes``: in an order in which each comes after its inputs. Raises ``ValueError`` for an input
        that is not among them."""
        self._nodes = {node.place: node for node in nodes}
        self._order = {place: number for number, place in enumerate(self._nodes)}
        self._missing = {place: set(node.inputs.values()) for place, node in self._nodes.items()}
        self._readers: dict[str, list[str]] = {place: [] for place in self._nodes}
        for place, missing in self._missing.items():
            for read in missing:
                if read not in self._nodes:
                    raise ValueError(f"{place} reads {read}, which is no stage of the run")
                self._readers[read].append(place)
        self._waiting: dict[Resource, list[int]] = {}
        self._ready: dict[str, float] = {}
        self._holder: dict[Resource, str] = {}
        self._began: dict[Resource, float] = {}
        self._had: dict[Resource, list[tuple[str, float, float]]] = {}
        """Who had it, from when to when."""
        self._places = list(self._nodes)
        self._left = len(self._nodes)
        self._opened = False

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return not self._left

    @property
    def busy(self) -> list[str]:
        """The places that have begun and not ended."""
        return list(self._holder.values())

    def turns(self, now: float) -> list[Turn]:
        """What may begin now, one stage for each free resource, and has begun for the schedule."""
        if not self._opened:
            self._opened = True
            for place, missing in self._missing.items():
                if not missing:
                    self._wait(place, now)
        found = []
        for resource, waiting in self._waiting.items():
            if waiting and resource not in self._holder:
                place = self._places[heapq.heappop(waiting)]
                self._holder[resource] = place
                self._began[resource] = now
                since = self._ready.pop(place)
                found.append(Turn(self._nodes[place], since, self._waited_for(resource, since)))
        return sorted(found, key=lambda turn: self._order[turn.node.place])

    def end(self, place: str, now: float) -> None:
        """That stage is done; its resource is free."""
        resource = self._nodes[place].stage.resource
        if self._holder.get(resource) != place:
            raise ValueError(f"{place} has not begun")
        del self._holder[resource]
        self._had.setdefault(resource, []).append((place, self._began[resource], now))
        self._left -= 1
        for reader in self._readers[place]:
            self._missing[reader].discard(place)
            if not self._missing[reader]:
                self._wait(reader, now)

    def _waited_for(self, resource: Resource, since: float) -> str | None:
        longest, found = 0.0, None
        for place, began, ended in reversed(self._had.get(resource, ())):
            if ended <= since:
                break
            if ended - max(began, since) > longest:
                longest, found = ended - max(began, since), place
        return found

    def _wait(self, place: str, now: float) -> None:
        heapq.heappush(self._waiting.setdefault(self._nodes[place].stage.resource, []), self._order[place])
        self._ready[place] = now
