"""What a person sees while a run goes: rounds, progress inside the stage, speed, reward, time left."""

from __future__ import annotations

import json
import time
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from flows.execution.watch import Watch
from flows.stage_table.stages import Node, Plan
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Step
from tasks.report.format import count

ROWS = 12
"""Rounds shown at once; older ones scroll out of the table."""


class Terminal(Watch):
    """A live table on a terminal."""

    def __init__(self, name: str, plan: Plan, console: Console) -> None:
        self._name = name
        self._total = len(plan)
        self._rounds = plan.params.rounds
        shown = [stage for stage in plan.stages if not stage.once]
        columns = [column.heading for stage in shown for column in stage.columns]
        self._headings = (*(stage.name for stage in shown), *columns)
        self._rows: dict[int, dict[str, str]] = {}
        self._finished = 0
        self._made = 0
        self._began = time.monotonic()
        self._first = self._began
        """When a stage was first made."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[facts]}"),
        )
        self._bars = {"": self._progress.add_task("starting", total=None, facts="")}
        """By place: one for each stage that is being made."""
        self._live = Live(self._picture(), console=console, refresh_per_second=4)

    def __enter__(self) -> Terminal:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.update(self._table(), refresh=True)
        self._live.stop()

    def begin(self, node: Node) -> None:
        """Show the stage's name."""
        self._remove("")
        self._remove(node.place)
        self._bars[node.place] = self._progress.add_task(node.place, total=None, facts="")
        if not self._made and not node.stage.once:
            self._first = time.monotonic()
        self._live.update(self._picture())

    def tell(self, place: str, activity: str, done: int, total: int, facts: dict[str, float]) -> None:
        """Move the stage's bar."""
        if place in self._bars:
            words = "  ".join(f"{name.replace('_', ' ')} {value:,.4g}" for name, value in facts.items())
            self._progress.update(self._bars[place], completed=done, total=total or None, facts=words)

    def end(self, node: Node, step: Step, artefact: Artefact) -> None:
        """Fill the round's row."""
        self._finished += 1
        row = self._rows.setdefault(node.round, {})
        row[node.stage.name] = "cached" if step.outcome == "cached" else f"{step.seconds:.1f} s"
        for column in node.stage.columns:
            value = _figure(artefact, column.key)
            if value is not None:
                row[column.heading] = column.form.format(value)
        if step.outcome == "made" and not node.stage.once:
            self._made += 1
        self._remove(node.place)
        self._live.update(self._picture())

    def note(self, text: str) -> None:
        """A line above the table."""
        self._live.console.print(Text(text, style="yellow"))

    def _remove(self, place: str) -> None:
        bar = self._bars.pop(place, None)
        if bar is not None:
            self._progress.remove_task(bar)

    def _picture(self) -> Group:
        spent = time.monotonic() - self._began
        left = ""
        if self._made:
            each = (time.monotonic() - self._first) / self._made
            left = f", about {_clock(each * (self._total - self._finished))} left"
        foot = Text(f"{self._finished} of {self._total} stages, {_clock(spent)}{left}", style="dim")
        return Group(self._table(), self._progress, foot)

    def _table(self) -> Table:
        title = f"{self._name}: {count(self._rounds, 'round')}"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("round", justify="right")
        for heading in self._headings:
            table.add_column(heading, justify="right")
        for round in sorted(self._rows)[-ROWS:]:
            row = self._rows[round]
            table.add_row(str(round), *(row.get(heading, "") for heading in self._headings))
        return table


class Lines(Watch):
    """JSON, one object a line, for machines."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def begin(self, node: Node) -> None:
        """A stage that is made from now on."""
        self._say({"event": "begin", "place": node.place, "stage": node.stage.name, "round": node.round})

    def fetched(self, node: Node, artefact: Artefact) -> None:
        """What the remote had."""
        size = sum(file.bytes for file in artefact.manifest.files.values())
        self._say({"event": "fetched", "place": node.place, "stage": node.stage.name, "bytes": size})

    def end(self, node: Node, step: Step, artefact: Artefact) -> None:
        """A finished stage."""
        self._say({"event": "stage", **step.model_dump(mode="json"), "measured": artefact.manifest.measured})

    def note(self, text: str) -> None:
        """A note."""
        self._say({"event": "note", "text": text})

    def _say(self, event: dict[str, Any]) -> None:
        self._out.write(json.dumps(event) + "\n")  # whole lines: stages may be made side by side
        self._out.flush()


class Quiet(Watch):
    """Nothing but what went wrong, for logs."""

    def __init__(self, err: TextIO) -> None:
        self._err = err

    def note(self, text: str) -> None:
        """A note on standard error."""
        print(text, file=self._err, flush=True)


def _figure(artefact: Artefact, key: str) -> float | None:
    """A figure by name: from what the stage measured of itself, or from its metrics."""
    if key in artefact.manifest.measured:
        return artefact.manifest.measured[key]
    for name in ("metrics.json", "scores.json"):
        if name in artefact.manifest.files:
            value = artefact.json(name).get(key)
            value = value.get("value") if isinstance(value, dict) else value
            return float(value) if isinstance(value, int | float) else None
    return None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
