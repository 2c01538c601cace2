"""Bytes counted by several threads, told as they go."""

from __future__ import annotations

import threading
from collections.abc import Callable

Tell = Callable[[str, int, int, dict[str, float]], None]
"""``tell(activity, done, total, facts)``."""


def silent(activity: str, done: int, total: int, facts: dict[str, float]) -> None:
    """Tell nobody."""


class Progress:
    """How many of ``total`` bytes have gone over the line; more than those where some went twice."""

    def __init__(self, activity: str, total: int, tell: Tell) -> None:
        self._activity, self._total, self._tell = activity, total, tell
        self._lock = threading.Lock()
        self.done = 0

    def moved(self, count: int) -> None:
        """So many more."""
        with self._lock:
            self.done += count
            self._tell(self._activity, min(self.done, self._total), self._total, {})
