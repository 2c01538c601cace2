"""What a run that goes on tells of its rounds: trackers each one, and the report, which loads itself anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from flows.execution.runner import Runner
from flows.stage_table.stages import Node
from tasks.report.run.page import write

EVERY = 20.0
"""Seconds between two pages, at least: writing one takes about half of one."""
RELOAD = 20
"""Seconds after which the page loads itself anew."""


class LiveReport:
    """Tells trackers and the like of every round in which something was made, and then writes the page of the
    run, if the last one is old enough."""

    def __init__(
        self,
        runner: Runner,
        told: Sequence[Callable[[int], None]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner, self._told, self._clock = runner, told, clock
        self._written = clock()
        self._round = self._seen = 0

    def after(self, node: Node) -> None:
        """That stage is done."""
        steps = self._runner.record.steps
        ended, self._round = node.round != self._round, node.round
        made = any(step.outcome == "made" for step in steps[self._seen :])
        if not (ended and made):
            return
        self._seen = len(steps)
        for tell in self._told:
            tell(node.round - 1)
        if self._clock() - self._written >= EVERY:
            write(self._runner.directory, RELOAD)
            self._written = self._clock()
