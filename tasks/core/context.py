"""What a stage is handed beside its inputs: where to say how far it is, and what outlives it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from tasks.artefacts.artefact import Artefact


class Closeable(Protocol):
    """A resource that is given back with ``close``."""

    def close(self) -> None:
        """Give it back."""


class Cluster(Protocol):
    """Actors, on other machines perhaps, that see the workspace under the same path."""

    workspace: Path

    def each(self, shards: Sequence[Mapping[str, Any]], tell: Callable[[int], None]) -> list[str]:
        """Sample and judge each shard, side by side; the paths of their artefacts, in their order. ``tell``
        hears how many are done. Raises ``BadInput`` and ``StageFailure``."""

    def meeting(self) -> str:
        """``HOST:PORT`` of this machine that the others reach."""

    def place_ranks(self, folder: Path, machines: int) -> Closeable:
        """Have the further ones of so many machines join the update whose launchers meet in ``folder``; to be
        closed after it. Raises ``BadInput`` and ``StageFailure``."""


class Shared(Protocol):
    """The artefacts of the run's workspace."""

    artefacts: Path
    """Where they lie, each in a folder ``STAGE-...``."""

    def find(self, stage: str, fingerprint: str) -> Artefact | None:
        """The one with this fingerprint, checked; None where there is none; raises ``Damaged``."""

    def make(self, stage: str, fingerprint: str, fill: Callable[[Path], dict[str, Any]]) -> Artefact:
        """Put another one there: ``fill`` fills a directory and returns the manifest's facts."""


ResourceT = TypeVar("ResourceT", bound=Closeable)


@dataclass
class Context:
    """Lives as long as a run; closing it closes every engine, model and judge that stages kept."""

    scratch: Path
    """A directory for files that nobody needs after the run (merged weights, engine logs)."""
    tell: Callable[[str, int, int, dict[str, float]], None] = lambda *_: None
    """``tell(activity, done, total, facts)``: progress inside a stage, as often as it is known."""
    note: Callable[[str], None] = lambda _: None
    """``note(text)``: something a person should know and need not act on."""
    store: Shared | None = None
    """Where what a stage has finished of its work may wait, should it be interrupted, and what those of other
    runs may use; None: nowhere."""
    cluster: Cluster | None = None
    """Where the shards of a rollout are sampled; None: a rollout is sampled here and in one piece."""
    _before_learning: list[Callable[[], None]] = field(default_factory=list)
    _when_whole: list[Callable[[], None]] = field(default_factory=list)
    _kept: dict[Hashable, Any] = field(default_factory=dict)

    def before_learning(self, make_room: Callable[[], None]) -> None:
        """Call ``make_room`` whenever weights are about to train."""
        self._before_learning.append(make_room)

    def learning(self) -> None:
        """Weights are about to train: whoever holds memory that it can do without gives it back."""
        for make_room in self._before_learning:
            make_room()

    def when_whole(self, clean: Callable[[], None]) -> None:
        """Call ``clean`` once the artefact of this stage is whole: what a stage that is made again could use
        stays until then."""
        self._when_whole.append(clean)

    def whole(self) -> None:
        """The artefact is whole."""
        while self._when_whole:
            self._when_whole.pop()()

    def keep(self, key: Hashable, make: Callable[[], ResourceT]) -> ResourceT:
        """The resource under ``key``, made the first time and shared by every later stage of the run."""
        if key not in self._kept:
            self._kept[key] = make()
        return cast(ResourceT, self._kept[key])

    def kept(self, key: Hashable) -> Any:
        """The resource under ``key``, or None."""
        return self._kept.get(key)

    def drop(self, key: Hashable) -> None:
        """Close one resource now."""
        if key in self._kept:
            self._kept.pop(key).close()

    def close(self) -> None:
        """Close everything, the youngest first; what one of them raises is raised once all are closed."""
        with ExitStack() as stack:
            for key in self._kept:
                stack.callback(self.drop, key)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
