"""What a run that goes on tells of its rounds: trackers each one, and the report, which loads itself anew."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from flows.execution.runner import Runner
from flows.stage_table.stages import Node
from params.errors import OstinatoError
from tasks.report.run.page import write
from tasks.report.run.state import SHORTEST_SILENCE, rewrite_state

EVERY = 20.0
"""Seconds between two pages, at least: writing one takes about half of one."""
PAUSE = 20.0
"""The same, in the time that the last page took: a long run's takes longer."""
LONGEST = 400
"""Characters of a message that the page shows."""


class LiveReport:
    """Tells trackers and the like of every round in which something was made, and then writes the page of the
    run, if the last one is old enough; of a run that ends too early, the page says where and why."""

    def __init__(
        self,
        runner: Runner,
        nodes: Iterable[Node],
        told: Sequence[Callable[[int], None]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``nodes``: every stage of the run; ``told``: called with each round that has ended."""
        self._runner, self._told, self._clock = runner, told, clock
        self._written, self._cost = clock(), 0.0
        self._left = Counter(node.round for node in nodes)
        self._round = self._seen = 0

    @contextmanager
    def told_of(self, node: Node) -> Iterator[None]:
        """Around a stage."""
        try:
            yield
            self.done(node)
        except BaseException as error:
            self.stopped(node, error)
            raise

    def done(self, node: Node) -> None:
        """That stage is done."""
        steps = self._runner.record.steps
        self._left[node.round] -= 1
        ended = self._round
        while self._left and not self._left.get(self._round, 0):
            self._left.pop(self._round, None)
            self._round += 1
        made = any(step.outcome == "made" for step in steps[self._seen :])
        if self._round == ended or not made:
            return
        self._seen = len(steps)
        for round in range(ended, self._round):
            for tell in self._told:
                tell(round)
        began = self._clock()
        if began - self._written >= min(max(EVERY, PAUSE * self._cost), SHORTEST_SILENCE / 2):
            write(self._runner.directory, str(os.getpid()))
            self._written = self._clock()
            self._cost = self._written - began

    def stopped(self, node: Node, error: BaseException) -> None:
        """The run ends at that stage. The page's figures are brought up to date too, unless an interrupt
        leaves no time."""
        with suppress(OstinatoError, OSError):  # a full disk is told of by the error itself
            self._runner.stop(node.place, safe_line(error).removeprefix(f"{node.place}: "))
            rewrite_state(self._runner.directory)
            if isinstance(error, Exception):
                write(self._runner.directory)


def safe_line(error: BaseException) -> str:
    """What a page, or a word to others, says of it. Only our own messages are known to hold nothing
    secret."""
    if isinstance(error, OstinatoError):
        text = " ".join(str(error).split())
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    if isinstance(error, Exception):
        return f"{type(error).__name__}; what the command printed has its traceback"
    return "interrupted"
