"""What ran beside what, of a run whose stages overlap: engine, trainer and judge over the minutes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise

from tasks.artefacts.record import Step
from tasks.report.charts import HERO, Figure, pictures, timeline
from tasks.report.format import duration, percent
from tasks.report.run.data import RunData

LANES = ("engine", "trainer", "judge")
ROUNDS = 12
"""The last rounds, which are drawn; the table has the same."""
LONG = 300.0
"""Seconds above which the axis is in minutes."""
SHORT = 0.05
"""Seconds of waiting that are not told of: the time between one stage and the next."""


def timeline_figure(data: RunData) -> Figure | None:
    """The last rounds that this run made itself; None where no two of their stages ran at the same time."""
    made = [done.step for done in data.done if done.step.outcome == "made" and done.step.round]
    if not any(step.waited for step in made):  # all in sequence, or of a version that kept no time
        return None
    last = max((step.round for step in made), default=0)
    steps = sorted((s for s in made if s.round > last - ROUNDS), key=_begin)
    if not any(
        after.role.resource != s.role.resource and _begin(after) < s.elapsed for s, after in pairwise(steps)
    ):
        return None
    start, end = _begin(steps[0]), max(step.elapsed for step in steps)
    lanes = [lane for lane in LANES if any(step.role.resource == lane for step in steps)]
    stages = list(dict.fromkeys(step.stage for step in steps))
    unit, seconds = ("minutes", 60.0) if end - start > LONG else ("seconds", 1.0)
    rows = [
        {
            "lane": step.role.resource,
            "stage": step.stage,
            "begin": round((_begin(step) - start) / seconds, 4),
            "end": round((step.elapsed - start) / seconds, 4),
        }
        for step in steps
    ]
    busy = {lane: _length([s for s in steps if s.role.resource == lane]) / (end - start) for lane in lanes}
    together = sum(busy.values()) - _length(steps) / (end - start)
    first = min(step.round for step in steps)
    says = f"Rounds {first} to {last}, {duration(end - start)}: " + ", ".join(
        f"{lane} at work {percent(share, 0)}" for lane, share in busy.items()
    )
    says += f" of the time, two at once {percent(together, 0)}{_longest_wait(steps)}."
    title = "What ran beside what"
    draw = functools.partial(timeline, rows, lanes, stages, unit=unit)
    return Figure(
        key="timeline",
        title=title,
        says=says,
        pictures=pictures(draw, HERO, "timeline", title, says),
        legend=tuple((f"var(--stage-{i})", stage, "dot") for i, stage in enumerate(stages)),
        header=("stage", "with", "began, s", "took, s", "waited, s", "for"),
        rows=tuple(
            (
                step.place,
                step.role.resource,
                f"{_begin(step) - start:.1f}",
                f"{step.seconds:.1f}",
                f"{step.waited:.1f}" if step.waited > SHORT else "",
                (step.waited_for or "") if step.waited > SHORT else "",
            )
            for step in steps
        ),
    )


def _begin(step: Step) -> float:
    return step.elapsed - step.seconds


def _length(steps: Sequence[Step]) -> float:
    """Seconds in which at least one of them was made."""
    total, reached = 0.0, float("-inf")
    for step in sorted(steps, key=_begin):
        total += max(0.0, step.elapsed - max(_begin(step), reached))
        reached = max(reached, step.elapsed)
    return total


def _longest_wait(steps: Sequence[Step]) -> str:
    waiting = [step for step in steps if step.waited > SHORT and step.waited_for]
    if not waiting:
        return ""
    longest = max(waiting, key=lambda step: step.waited)
    told = f"was that of {longest.place} for {longest.waited_for}"
    return f"; the longest wait, {duration(longest.waited)}, {told}"
