"""What a person sees while a comparison goes: a live line, and a line for each run that ended."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from flows.experiments.worker_pool import ELSEWHERE, Event, Run
from flows.stage_table.stages import plan
from tasks.report.format import count, duration


class Display:
    """A line for each run that has ended, on standard output."""

    def tell(self, run: Run, event: Event) -> None:
        """Something happened."""
        if event["event"] == "end" and event["outcome"] != ELSEWHERE:
            why = f" ({run.why})" if run.why else ""
            stages = f"{run.made} stages made, {run.cached} cached, {duration(run.seconds)}"
            self.line(f"{run.trial.name}: {run.outcome}{why}, {stages}")
        elif event["event"] == "note":
            print(f"{run.trial.name}: {event['text']}", file=sys.stderr, flush=True)

    def line(self, text: str) -> None:
        """One line that stays."""
        print(text, flush=True)

    def conclude(self, place: Path) -> None:
        """The comparison is written."""
        summary = _summary(place)
        for line in summary["missing"]:
            print(f"ostinato: {summary['name']}: {line}", file=sys.stderr)
        print(f"{summary['verdict']}\n{summary['evidence']}")
        print(f"Tables: {place / 'summary.md'}")
        print(f"Report: {place / 'report.html'}")


class Json(Display):
    """JSON, one object a line on standard output, for machines."""

    def tell(self, run: Run, event: Event) -> None:
        """Runs that end, and notes."""
        if event["event"] == "end" and event["outcome"] != ELSEWHERE:
            self.line(json.dumps({"event": "run", **run.facts()}))
        elif event["event"] == "note":
            self.line(json.dumps({"event": "note", "name": run.trial.name, "text": event["text"]}))

    def conclude(self, place: Path) -> None:
        """The whole summary."""
        self.line(json.dumps({"event": "comparison", "place": str(place), **_summary(place)}))


class Terminal(Display):
    """A live line beneath the runs that have ended: runs, rounds, time left."""

    def __init__(self, name: str, runs: Sequence[Run], workers: int, console: Console) -> None:
        self._name = name
        self._runs = runs
        self._workers = min(workers, len(runs))
        self._planned = {run.trial.name: len(plan(run.trial.params)) for run in runs if not run.trial.budget}
        self._rounds = sum(run.trial.params.rounds for run in runs if not run.trial.budget)
        self._rollouts: set[tuple[str, str]] = set()
        self._seconds: list[float] = []
        self._began = time.monotonic()
        self.live = Live(console=console, get_renderable=self._picture, refresh_per_second=2, transient=True)

    def tell(self, run: Run, event: Event) -> None:
        """Count it."""
        if event["event"] == "stage":
            if event["stage"] == "rollout":
                self._rollouts.add((run.trial.name, event["place"]))
            if event["outcome"] == "made" and "/" in event["place"]:
                self._seconds.append(event["seconds"])
        super().tell(run, event)

    def line(self, text: str) -> None:
        """Above the live line."""
        self.live.console.print(Text(text))

    def _picture(self) -> Text:
        ended = sum(run.outcome not in ("waiting", "running") for run in self._runs)
        spent = duration(time.monotonic() - self._began)
        words = f"{self._name}: {ended} of {count(len(self._runs), 'run')}"
        rounds = f"{len(self._rollouts)} of {count(self._rounds, 'round')}"
        if not self._rounds:  # as many as the budget allows
            rounds = count(len(self._rollouts), "round")
        return Text(f"{words}, {rounds}, {spent}{self._left()}", overflow="ellipsis")

    def _left(self) -> str:
        """Time left, if what is still to do has to be made and takes as long as what was made so far."""
        if not self._seconds or not self._rounds:
            return ""
        todo = sum(
            self._planned[run.trial.name] - run.made - run.cached
            for run in self._runs
            if run.outcome in ("waiting", "running")
        )
        each = sum(self._seconds) / len(self._seconds)
        return f", about {duration(each * todo / self._workers)} left"


@contextmanager
def display(title: str, runs: Sequence[Run], workers: int, as_json: bool) -> Iterator[Display]:
    """JSON lines where asked for, live on a terminal, else a line for each run."""
    if as_json:
        yield Json()
        return
    print(f"{title}: {count(len(runs), 'run')}, {workers} at a time", flush=True)
    if not sys.stderr.isatty():
        yield Display()
        return
    terminal = Terminal(title, runs, workers, Console(stderr=True))
    with terminal.live:
        yield terminal


def _summary(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "summary.json").read_text())
    return found
