"""The report of a run that goes on: written after rounds, and loading itself anew."""

from __future__ import annotations

import time
from collections.abc import Callable

from flows.execution.runner import Runner
from flows.stage_table.stages import Node
from tasks.report.run.page import write

EVERY = 20.0
"""Seconds between two pages, at least: writing one takes about half of one."""
RELOAD = 20
"""Seconds after which the page loads itself anew."""


class LiveReport:
    """Writes the page of a run after a round in which something was made, if the last one is old enough."""

    def __init__(self, runner: Runner, clock: Callable[[], float] = time.monotonic) -> None:
        self._runner, self._clock = runner, clock
        self._written = clock()
        self._round = self._seen = 0

    def after(self, node: Node) -> None:
        """That stage is done."""
        steps = self._runner.record.steps
        ended, self._round = node.round != self._round, node.round
        made = any(step.outcome == "made" for step in steps[self._seen :])
        if ended and made and self._clock() - self._written >= EVERY:
            write(self._runner.directory, RELOAD)
            self._written, self._seen = self._clock(), len(steps)
