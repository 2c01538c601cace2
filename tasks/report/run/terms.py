"""The report's charts of what a method measures of itself: a chart for each metric of its parts.

A part says by its contract's ``METRICS`` how its metrics are shown; a term's metric that is not there is
shown by its name, ``TERM.METRIC``. Nothing here knows a method.
"""

from __future__ import annotations

from dataclasses import replace

from algorithms.contract import Recipe
from algorithms.terms import MetricLabel
from params.schema import Method
from tasks.report.charts import THIRD, Figure, series
from tasks.report.run.data import RunData, metrics_of
from tasks.report.run.figures import COLOURS, NUMBERS, SHARES, lines_figure


def term_figures(data: RunData) -> list[Figure | None]:
    """Charts of the objective's metrics that it declares, and of all of the terms'."""
    said, labels = metrics_of(data, "update"), _labels(data.params.method)
    found = {key for _, values in said for key in values if "." in key or key in labels}
    known = [key for key in labels if key in found]
    shown = {key: labels.get(key) or MetricLabel(key, key, "") for key in (*known, *sorted(found))}
    return [_chart(key, label, said) for key, label in shown.items() if label.chart]


def _labels(method: Method) -> dict[str, MetricLabel]:
    """By name in ``metrics.json``, in the order in which they are shown."""
    recipe = Recipe.of(method)
    parts = [part for part, _ in recipe.terms]
    own = {label.name: label for label in recipe.objective[0].METRICS}
    return own | {f"{part.name}.{label.name}": label for part in parts for label in part.METRICS}


def _chart(key: str, label: MetricLabel, said: list[tuple[int, dict[str, float]]]) -> Figure | None:
    rows = [{"round": round, key: values.get(key)} for round, values in said]
    line = series(label.label, COLOURS[0], rows, key)
    look = replace(SHARES if label.percent else NUMBERS, sizes=THIRD)
    first, last = (look.show(line.points[place].y) for place in (0, -1))
    says = f"{first} → {last}{label.says and f': {label.says}'}."
    return lines_figure(f"metric-{key.replace('.', '-')}", label.label, says, [line], look, rows, [key])
