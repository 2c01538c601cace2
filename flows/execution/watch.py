"""What the command line hands to a flow that it starts in its own process: who watches, what was checked."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flows.stage_table.stages import Node
from params.schema import Params
from params.store import StoreSettings
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Step


class Watch:
    """Is told how a run goes. This one says nothing."""

    def begin(self, node: Node) -> None:
        """A stage is made from now on; one that is cached only ends."""

    def tell(self, place: str, activity: str, done: int, total: int, facts: dict[str, float]) -> None:
        """How far the stage at ``place`` is."""

    def fetched(self, node: Node, artefact: Artefact) -> None:
        """The stage's artefact came from the remote."""

    def end(self, node: Node, step: Step, artefact: Artefact) -> None:
        """The stage is done."""

    def note(self, text: str) -> None:
        """Something a person should know: an artefact was damaged and is made again."""


@dataclass(frozen=True)
class Local:
    """A flow's start from this process."""

    watch: Watch
    params: Params | None = None
    """Composed and checked from the very arguments that the flow gets."""
    accept: tuple[str, ...] = ()
    """Places whose artefacts may have been made by another state of the source."""
    kept_in: StoreSettings | None = None
    """The bucket that the run is pushed to when it is done, tried; None: it is not."""


_local: contextvars.ContextVar[Local | None] = contextvars.ContextVar("local", default=None)


def local_start() -> Local | None:
    """How the flow was started, where this process did it. (Prefect pickles the flow for a scheduled run, and
    a context variable cannot be pickled: hence a function in a module of its own.)"""
    return _local.get()


@contextmanager
def started_locally(start: Local) -> Iterator[None]:
    """Inside the block, a flow of this process is started so."""
    token = _local.set(start)
    try:
        yield
    finally:
        _local.reset(token)
