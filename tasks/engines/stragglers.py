"""Pieces of work that take longer than the others, which an idle server is given a second time.

The rule is ours: a piece is overdue when it has been under way for ``Patience.overdue`` medians of what
finished pieces took, or has waited on its server for ``Patience.overdue_least`` without being begun.
"""

from __future__ import annotations

import bisect
import collections
import time
from collections.abc import Iterator, Sequence

from tasks.engines.server_state import Held, Patience, ServerState


class Stragglers:
    """Learns how long pieces take, and says which are overdue."""

    def __init__(self, states: Sequence[ServerState], patience: Patience) -> None:
        """``states`` may change meanwhile."""
        self._states = states
        self._patience = patience
        self._took: list[float] = []
        self._looked = 0.0

    def learn(self, held: Held) -> None:
        """A piece that was held is finished."""
        bisect.insort(self._took, time.monotonic() - held.since)

    def idle(self, capacity: int) -> list[ServerState]:
        """The servers with nothing to do but second copies, and room for more."""
        return [
            state
            for state in self._states
            if state.ready and len(state.held) < capacity and all(held.copy for held in state.held.values())
        ]

    def overdue(self) -> list[tuple[int, Held]]:
        """The pieces that one server alone has, and has had for too long; the oldest first."""
        self._looked = time.monotonic()
        late = [(due, index, held) for due, index, held in self._due() if due <= self._looked]
        return [(index, held) for _, index, held in sorted(late, key=lambda one: one[0])]

    def wait(self) -> float:
        """Seconds until a further piece is overdue; infinite where that is not known."""
        further = [due for due, _, _ in self._due() if due > self._looked]
        return min(further, default=float("inf")) - time.monotonic()

    def _due(self) -> Iterator[tuple[float, int, Held]]:
        counts = collections.Counter(index for state in self._states for index in state.held)
        known = len(self._took) >= self._patience.overdue_known
        least = self._patience.overdue_least
        most = max(least, self._patience.overdue * self._took[len(self._took) // 2]) if known else None
        for state in self._states:
            for index, held in list(state.held.items()):
                limit = most if held.begun else least
                if counts[index] == 1 and limit is not None:
                    yield held.since + limit, index, held
