"""What a page says of its run's state: finished, going on, stopped, and by what.

It stands in one block, which can be written anew where there is no time to draw the page. A process that is
killed cannot say so: the page of a run that goes on tells when it was written and which process makes the
run, and its script stops loading it anew after a silence in which a page was due.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.artefacts.artefact import replace_file
from tasks.artefacts.record import Record, Step
from tasks.report.rendering import environment

PAGE = "report.html"
TEMPLATE = "run/state.html.j2"
BLOCK = re.compile(r"<!-- state -->.*?<!-- /state -->", re.DOTALL)
"""Where it stands in the page; what a model wrote stands there escaped and cannot look like it."""
SHORTEST_SILENCE = 600.0
"""Seconds without a new page that say nothing yet, however short the rounds are."""
ROUNDS_OF_SILENCE = 3.0
"""The same, in the longest round so far."""


RELOAD = 20
"""Seconds after which the page of a run that goes on loads itself anew."""


@dataclass(frozen=True)
class State:
    """A run's state in words."""

    chip: str
    line: str = ""
    """One sentence more; none where there is nothing to say."""
    reload: int = 0
    """Seconds after which the page loads itself anew; 0: never."""
    written: int = 0
    """Seconds since 1970, UTC."""
    silence: int = 0
    """Seconds after which a page that goes on has stopped."""
    silent: str = ""
    """The sentence that stands there then."""


def state(record: Record, process: str | None = None) -> State:
    """The state as of now; ``process`` is making the run, and writes a page from time to time."""
    now = datetime.now(UTC)
    when = spelled(now)
    if record.finished:
        return State("finished")
    if process is not None:
        told = f"`ostinato status {record.name}` tells"
        return State(
            "going on",
            f"As of {when} (process {process}); it is written anew when a round has ended.",
            RELOAD,
            int(now.timestamp()),
            int(max(SHORTEST_SILENCE, ROUNDS_OF_SILENCE * _longest_round(record.steps))),
            f"Nothing was written since {when}: process {process} may be gone. {told}.",
        )
    if record.stopped:
        at = spelled(datetime.fromisoformat(record.stopped.when))
        return State("stopped", f"Stopped at {record.stopped.place}, {at}: {record.stopped.said}")
    last = f"the last stage done is {record.steps[-1].place}" if record.steps else "no stage is done"
    return State("unfinished", f"As of {when} no process goes on with it; {last}.")


def spelled(when: datetime) -> str:
    """A moment, to the minute."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def rewrite_state(directory: Path) -> None:
    """Let the page of a run that nobody is making say so, where there is one; in milliseconds."""
    path = directory / PAGE
    if not path.is_file():
        return
    record = Record.read(directory)
    block = environment().get_template(TEMPLATE).render(record=record, state=state(record))
    text = path.read_text(encoding="utf-8")
    changed = BLOCK.sub(lambda _: block, text, count=1)
    if changed != text:
        replace_file(path, changed)


def _longest_round(steps: Sequence[Step]) -> float:
    """Wall time of the longest round, in seconds; what comes before the rounds counts as one."""
    ends: dict[int, float] = {}
    for step in steps:
        ends[step.round] = max(ends.get(step.round, 0.0), step.elapsed)
    marks = [0.0, *sorted(ends.values())]
    return max((end - begin for begin, end in itertools.pairwise(marks)), default=0.0)
