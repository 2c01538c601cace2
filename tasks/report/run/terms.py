"""The report's charts of what a method measures of itself: a chart for each metric of its parts.

A part says by its contract's ``METRICS`` how its metrics are shown; a term's metric that is not there is
shown by its name, ``TERM.METRIC``. Nothing here knows a method.
"""

from __future__ import annotations

from dataclasses import replace

from algorithms.contract import Recipe
from algorithms.terms import MetricLabel
from params.schema import Params
from tasks.report.charts import THIRD, Figure, series
from tasks.report.run.data import RunData, metrics_of
from tasks.report.run.figures import (
    COLOURS,
    DASHED,
    DOTTED,
    LINES,
    NUMBERS,
    SHARES,
    SOLID,
    lines_figure,
)

CLIPPED = MetricLabel("clip_fraction", "Clipped", "share of tokens whose ratio was clipped", percent=True)
"""An objective's figure that has its chart elsewhere, and one by task here."""
DASHES = (SOLID, DASHED, DOTTED)


def term_figures(data: RunData) -> list[Figure | None]:
    """Charts of the objective's metrics that it declares, and of all of the terms'; of a mixture whose tasks
    have methods of their own, by task too."""
    said, labels = metrics_of(data, "update"), _labels(data.params)
    tasks = list(data.params.methods)
    every = {key for _, values in said for key in values}
    by_task = {key for key in every if key.partition(".")[0] in tasks}
    found = {key for key in every - by_task if "." in key or key in labels}
    known = [key for key in labels if key in found]
    shown = {key: labels.get(key) or MetricLabel(key, key, "") for key in (*known, *sorted(found))}
    alone = [_chart(key, label, said) for key, label in shown.items() if label.chart]
    split = {CLIPPED.name: CLIPPED, **{key: label for key, label in shown.items() if label.chart}}
    return [*alone, *(_by_task(key, label, said, tasks) for key, label in split.items() if by_task)]


def _labels(params: Params) -> dict[str, MetricLabel]:
    """By name in ``metrics.json``, in the order in which they are shown."""
    found: dict[str, MetricLabel] = {}
    for method in params.methods.values():
        recipe = Recipe.of(method)
        found |= {label.name: label for label in recipe.objective[0].METRICS}
        parts = [part for part, _ in recipe.terms]
        found |= {f"{part.name}.{label.name}": label for part in parts for label in part.METRICS}
    return found


def _by_task(
    key: str, label: MetricLabel, said: list[tuple[int, dict[str, float]]], tasks: list[str]
) -> Figure | None:
    rows = [{"round": n, **{task: values.get(f"{task}.{key}") for task in tasks}} for n, values in said]
    lines = [
        series(task, COLOURS[place % LINES], rows, task, dash=DASHES[place // LINES % len(DASHES)])
        for place, task in enumerate(tasks)
    ]
    look = replace(SHARES if label.percent else NUMBERS, domain=None, sizes=THIRD)
    says = f"By task{label.says and f': {label.says}'}."
    name = f"metric-by-task-{key.replace('.', '-')}"
    return lines_figure(name, f"{label.label}, by task", says, lines, look, rows, tasks)


def _chart(key: str, label: MetricLabel, said: list[tuple[int, dict[str, float]]]) -> Figure | None:
    rows = [{"round": round, key: values.get(key)} for round, values in said]
    line = series(label.label, COLOURS[0], rows, key)
    look = replace(SHARES if label.percent else NUMBERS, sizes=THIRD)
    first, last = (look.show(line.points[place].y) for place in (0, -1))
    says = f"{first} → {last}{label.says and f': {label.says}'}."
    return lines_figure(f"metric-{key.replace('.', '-')}", label.label, says, [line], look, rows, [key])
