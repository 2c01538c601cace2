"""What a stage is handed beside its inputs: where to say how far it is, and what outlives it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast


class Closeable(Protocol):
    """A resource that is given back with ``close``."""

    def close(self) -> None: ...


ResourceT = TypeVar("ResourceT", bound=Closeable)


def _silent(activity: str, done: int, total: int, facts: dict[str, float]) -> None:
    pass


@dataclass
class Context:
    """Lives as long as a run; closing it closes every engine, model and judge that stages kept."""

    scratch: Path
    """A directory for files that nobody needs after the run (merged weights, engine logs)."""
    tell: Callable[[str, int, int, dict[str, float]], None] = _silent
    """``tell(activity, done, total, facts)``: progress inside a stage, as often as it is known."""
    sampler: Callable[..., Any] | None = None
    """What samples a rollout in place of ``tasks.rollout.sampling.sample``, with its arguments."""
    _kept: dict[Hashable, Any] = field(default_factory=dict)

    def keep(self, key: Hashable, make: Callable[[], ResourceT]) -> ResourceT:
        """The resource under ``key``, made the first time and shared by every later stage of the run."""
        if key not in self._kept:
            self._kept[key] = make()
        return cast(ResourceT, self._kept[key])

    def drop(self, key: Hashable) -> None:
        """Close one resource now."""
        if key in self._kept:
            self._kept.pop(key).close()

    def close(self) -> None:
        """Close everything, the youngest first."""
        for key in reversed(list(self._kept)):
            self.drop(key)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
