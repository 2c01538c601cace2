"""The page of a run that goes on, stopped, or is silent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.artefacts.record import Stop
from tasks.report.run.page import collect, rounds_table, summary, write
from tests.tasks.report.page_reader import CHROMIUM, Page, browse, read
from tests.tasks.report.synthetic_run import HOSTILE, SyntheticRun


@pytest.mark.parametrize(
    ("through", "evaluated", "verdict"),
    [
        (None, False, "Nothing has been measured yet."),
        (0, True, "The base model answers"),
        (3, False, "Nothing has been measured yet."),
        (7, True, "Held-out accuracy"),
    ],
)
def test_an_unfinished_run_has_a_page(
    tmp_path: Path, through: int | None, evaluated: bool, verdict: str
) -> None:
    directory = SyntheticRun(tmp_path / "half", rounds=10).write(through=through, evaluated=evaluated)
    write(directory)
    assert read(directory).find("h1")[0].startswith(verdict)
    rows = rounds_table(collect(directory))
    assert len(rows) == (10 if through is None else through) + evaluated


def test_a_run_that_stopped_says_where_and_why(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "stopped", rounds=10)
    run.record.stopped = Stop(
        place="round-04/update", said=f"the file {HOSTILE} is not there", when="2026-03-01T02:11:40+00:00"
    )
    write(run.write(through=3))
    page = read(run.directory)
    assert page.find("span", id="chip") == ["stopped"]
    (line,) = page.find("p", id="state")
    assert line.startswith("Stopped at round-04/update, 2026-03-01 02:11 UTC: the file ")
    assert line == " ".join(
        f"Stopped at round-04/update, 2026-03-01 02:11 UTC: {run.record.stopped.said}".split()
    )
    assert not any("data-reload" in facts for _, facts, _, _ in page.elements)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(("minutes", "word"), [(0, "going on"), (9, "going on"), (11, "no word")])
def test_a_page_that_is_not_written_any_more_says_so(tmp_path: Path, minutes: int, word: str) -> None:
    directory = SyntheticRun(tmp_path / "killed", rounds=10).write(through=3)
    path = write(directory, process="4711")
    text = path.read_text()
    (written,) = re.findall(r'data-written="(\d+)"', text)
    path.write_text(text.replace(written, str(int(written) - 60 * minutes)))
    dom, log = browse(path, "", tmp_path)
    page = Page(dom)
    assert page.find("span", id="chip") == [word]
    (line,) = page.find("p", id="state")
    assert "process 4711" in line
    assert line.startswith("As of" if word == "going on" else "Nothing was written since")
    assert "CONSOLE" not in log


def test_a_long_round_may_be_silent_for_longer(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "slow", rounds=10)
    run.write(through=2)
    silences = []
    for hours in (0, 4):
        for step in run.record.steps:
            step.elapsed = 3600.0 * hours * step.round
        run.record.write(run.directory)
        (silence,) = re.findall(r'data-silence="(\d+)"', write(run.directory, process="1").read_text())
        silences.append(int(silence))
    assert silences == [600, 3 * 4 * 3600]


def test_a_run_of_which_nothing_is_done_has_a_page(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "new", rounds=3)
    run.record.write(run.directory)
    write(run.directory)
    assert read(run.directory).find("h1") == ["Nothing has been measured yet."]
    assert summary(collect(run.directory)) == {"rounds": 0, "finished": False}
