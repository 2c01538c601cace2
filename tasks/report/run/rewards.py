"""The report's charts of several rewards, and of what rewards note: a chart for each, over the rounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from params.reward import combined, several
from tasks.report.charts import THIRD, Figure, series
from tasks.report.run.data import RunData, told_by
from tasks.report.run.figures import COLOURS, NUMBERS, lines_figure

TOTAL = "weighted sum"


def reward_figures(data: RunData) -> list[Figure | None]:
    """Charts of each reward's mean over the answers that it applies to, of their weighted sum, and of the
    means of what they note; none where there is one reward that notes nothing."""
    told = [(round, _figures(said)) for round, said in told_by(data, "rollout")]
    names = sorted({name for _, figures in told for name in figures}, key=lambda name: (name != TOTAL, name))
    weights = {}
    if combined(data.params.task.reward):
        weights = {each.called: f"weight {each.weight:g}" for each in several(data.params.task.reward)}
    return [_chart(place, name, weights.get(name, ""), told) for place, name in enumerate(names)]


def _figures(said: dict[str, Any]) -> dict[str, float | None]:
    total = {TOTAL: said["total_mean"]} if "total_mean" in said else {}
    return {**total, **said.get("rewards", {}), **said.get("notes", {})}


def _chart(
    place: int, name: str, weight: str, told: list[tuple[int, dict[str, float | None]]]
) -> Figure | None:
    rows = [{"round": round, name: figures.get(name)} for round, figures in told]
    line = series(name, COLOURS[1], rows, name)
    if not line.points:
        return None
    look = replace(NUMBERS, sizes=THIRD)
    says = f"{look.show(line.points[0].y)} → {look.show(line.points[-1].y)}{weight and f', {weight}'}."
    return lines_figure(f"reward-{place}", name, says, [line], look, rows, [name])
