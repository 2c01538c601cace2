"""The report of a run that goes on: after a round, not too often, and only where something was made."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flows.execution.live_report import EVERY, RELOAD, LiveReport
from flows.execution.runner import Runner
from flows.stage_table.stages import Node
from tests.tasks.report.synthetic_run import SyntheticRun


class Going:
    """A run whose stages a test lets be done, and a clock."""

    def __init__(self, root: Path) -> None:
        self.directory = SyntheticRun(root / "runs" / "it", rounds=3).write()
        self.now = 0.0
        self.steps: list[Any] = []
        self.told: list[int] = []
        record = SimpleNamespace(steps=self.steps)
        runner = cast(Runner, SimpleNamespace(record=record, directory=self.directory))
        self._live = LiveReport(runner, (self.told.append,), lambda: self.now)

    def done(self, round: int, outcome: str = "made") -> bool:
        """A stage of that round is done; whether a page was written for it."""
        page = self.directory / "report.html"
        page.unlink(missing_ok=True)
        self.steps.append(SimpleNamespace(outcome=outcome))
        self._live.after(cast(Node, SimpleNamespace(round=round)))
        return page.exists()


@pytest.fixture
def going(tmp_path: Path) -> Going:
    shutil.rmtree(tmp_path, ignore_errors=True)
    return Going(tmp_path)


def test_a_page_is_written_when_a_round_has_ended_and_loads_itself_anew(going: Going) -> None:
    going.now = EVERY
    assert [going.done(round) for round in (0, 0, 1)] == [False, False, True]
    text = (going.directory / "report.html").read_text()
    assert f'<meta http-equiv="refresh" content="{RELOAD}">' in text


def test_not_before_its_time_and_not_within_a_round(going: Going) -> None:
    going.now = EVERY / 2
    assert not going.done(1)
    going.now = 2 * EVERY
    assert [going.done(round) for round in (1, 1, 2, 2, 3)] == [False, False, True, False, False]
    assert going.told == [0, 1, 2]  # trackers hear of every round


def test_what_is_found_in_the_cache_writes_none(going: Going) -> None:
    going.now = EVERY
    assert not any(going.done(round, "cached") for round in (1, 2, 3))
    assert not going.told
