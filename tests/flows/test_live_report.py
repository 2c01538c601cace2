"""The report of a run that goes on: after a round, not too often, and only where something was made; and of
one that does not: where it stopped and why, and that the page loads itself no more."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flows.execution import live_report
from flows.execution.live_report import EVERY, LiveReport
from flows.execution.runner import Runner
from flows.stage_table.stages import Node
from tasks.report.run.page import write
from tasks.report.run.state import SHORTEST_SILENCE
from tests.flows.conftest import NANO, Workspace, events, kill_inside
from tests.tasks.report.synthetic_run import SyntheticRun

CHIP = re.compile(r'<span class="chip[^>]*>([^<]*)</span>')
LINE = re.compile(r'<p class="state"([^>]*)>([^<]*)</p>')


def said(directory: Path) -> tuple[str, str, bool]:
    """What a page says of its run: the word, the sentence, and whether it loads itself anew."""
    text = (directory / "report.html").read_text()
    line = LINE.search(text)
    (word,) = CHIP.findall(text)
    return word, line[2] if line else "", bool(line and "data-reload" in line[1])


class Going:
    """A run whose stages a test lets be done, and a clock."""

    def __init__(self, root: Path) -> None:
        self.directory = SyntheticRun(root / "runs" / "it", rounds=3).write(through=2)
        self.now = 0.0
        self.steps: list[Any] = []
        self.told: list[int] = []
        record = SimpleNamespace(steps=self.steps)
        runner = cast(Runner, SimpleNamespace(record=record, directory=self.directory))
        nodes = [cast(Node, SimpleNamespace(round=round)) for round in (0, 0, 1, 1, 2, 2, 3)]
        self._live = LiveReport(runner, nodes, (self.told.append,), lambda: self.now)

    def done(self, round: int, outcome: str = "made") -> bool:
        """A stage of that round is done; whether a page was written for it."""
        page = self.directory / "report.html"
        page.unlink(missing_ok=True)
        with self._live.told_of(cast(Node, SimpleNamespace(round=round))):
            self.steps.append(SimpleNamespace(outcome=outcome))
        return page.exists()


@pytest.fixture
def going(tmp_path: Path) -> Going:
    shutil.rmtree(tmp_path, ignore_errors=True)
    return Going(tmp_path)


def test_a_page_is_written_when_a_round_has_ended_and_loads_itself_anew(going: Going) -> None:
    going.now = EVERY
    assert [going.done(round) for round in (0, 0)] == [False, True]
    word, line, reloads = said(going.directory)
    assert (word, reloads) == ("going on", True)
    assert re.match(rf"As of [\d-]+ [\d:]+ UTC \(process {os.getpid()}\)", line)


def test_not_before_its_time_and_not_within_a_round(going: Going) -> None:
    going.now = EVERY / 2
    assert not going.done(0)
    assert not going.done(0)
    going.now = 2 * EVERY
    assert [going.done(round) for round in (1, 1, 2, 2, 3)] == [False, True, False, False, False]
    assert going.told == [0, 1, 2, 3]  # trackers hear of every round


@pytest.mark.parametrize(("cost", "pause"), [(0.1, EVERY), (3.0, 60.0), (100.0, SHORTEST_SILENCE / 2)])
def test_pages_that_take_long_are_written_less_often(
    going: Going, monkeypatch: pytest.MonkeyPatch, cost: float, pause: float
) -> None:
    """And often enough for a reader's page to know that the run goes on."""

    def slow(directory: Path, process: str) -> None:
        going.now += cost
        write(directory, process)

    monkeypatch.setattr(live_report, "write", slow)
    going.now = EVERY
    assert [going.done(round) for round in (0, 0)] == [False, True]
    going.now += pause - 1
    assert [going.done(round) for round in (1, 1)] == [False, False]
    going.now += 1
    assert [going.done(round) for round in (2, 2)] == [False, True]


def test_a_round_has_ended_when_all_before_it_have(going: Going) -> None:
    """Where stages overlap, the first of the next round may be done before the last of this one."""
    going.now = EVERY
    assert [going.done(round) for round in (0, 1, 1, 2)] == [False] * 4
    assert going.done(0)
    assert going.told == [0, 1]


def test_what_is_found_in_the_cache_writes_none(going: Going) -> None:
    going.now = EVERY
    assert not any(going.done(round, "cached") for round in (0, 0, 1, 1))
    assert not going.told


@pytest.fixture
def shown(prepared: Workspace) -> Workspace:
    """A workspace in which ``it`` had a page that said it goes on when its process was killed."""
    process = prepared.start("run", "--name", "it", "--json", *NANO)
    kill_inside(process, "update", 0.0)
    write(prepared.root / "runs" / "it", str(process.pid))
    return prepared


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(300)
def test_an_interrupted_run_has_a_page_that_says_so(shown: Workspace) -> None:
    directory = shown.root / "runs" / "it"
    assert said(directory)[::2] == ("going on", True)
    process = shown.start("run", "--name", "it", "--json", *NANO)
    assert process.stdout is not None
    for line in process.stdout:
        if any(e["event"] == "begin" and e["place"] == "round-02/update" for e in events(line)):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    word, line, reloads = said(directory)
    assert (word, reloads) == ("stopped", False)
    assert re.fullmatch(r"Stopped at round-02/update, [\d-]+ [\d:]+ UTC: interrupted", line)
    told = json.loads(shown.call("status", "it", "--json").stdout)
    assert (told["running"], told["stopped"]["place"]) == (False, "round-02/update")
    shown.run()
    assert said(directory) == ("finished", "", False)
    assert json.loads(shown.call("status", "it", "--json").stdout)["stopped"] is None


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(300)
def test_a_guards_stop_and_a_killed_process_are_told(shown: Workspace) -> None:
    """A stopped run tells its message, escaped; of a killed one nobody knows more than that it is over."""
    directory = shown.root / "runs" / "it"
    last = directory.joinpath("steps.jsonl").read_text().splitlines()[-1]
    assert json.loads(shown.call("status", "it", "--json").stdout)["running"] is False
    word, line, reloads = said(directory)
    assert (word, reloads) == ("unfinished", False)
    assert line.endswith(f"no process goes on with it; the last stage done is {json.loads(last)['place']}.")
    guard = "guards=[{figure: rollout.reward_mean, above: -1, then: stop}]"
    stopped = shown.call("run", "--name", "it", *NANO, "--set", guard, code=3)
    word, line, reloads = said(directory)
    assert (word, reloads) == ("stopped", False)
    message = stopped.stderr.splitlines()[-1].removeprefix("ostinato: round-01/rollout: ")
    assert line.startswith("Stopped at round-01/rollout, ")
    assert line.endswith(message)
    assert line.rpartition(" UTC: ")[2] in shown.call("status", "it").stdout
    shown.call("report", "it")
    assert said(directory) == (word, line, reloads)


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(300)
def test_the_page_of_a_run_that_goes_on_names_its_process(prepared: Workspace) -> None:
    process = prepared.start("run", "--name", "it", "--json", *NANO)
    assert process.stdout is not None
    for line in process.stdout:
        if any(e["event"] == "begin" and e["stage"] == "rollout" for e in events(line)):
            break
    process.send_signal(signal.SIGSTOP)
    try:
        prepared.call("report", "it")
        told = json.loads(prepared.call("status", "it", "--json").stdout)
    finally:
        process.kill()
        process.communicate()
    word, line, reloads = said(prepared.root / "runs" / "it")
    assert (word, reloads, told["running"]) == ("going on", True, True)
    assert f"(process {process.pid})" in line
