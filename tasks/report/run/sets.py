"""The report's charts of evaluation sets: one each, mean@n, the largest pass@k and greedy by round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tasks.report.charts import HALF, Figure, Point, Series
from tasks.report.run.data import Done, RunData, read_json
from tasks.report.run.figures import COLOURS, DASHED, DOTTED, SHARES, SOLID, lines_figure


def set_figures(data: RunData) -> list[Figure | None]:
    """A chart for each set of the run that was measured twice."""
    return [_figure(data, name) for name in data.params.evaluate.sets]


def _figure(data: RunData, name: str) -> Figure | None:
    made = [each for each in data.done if each.step.stage == f"evaluate-{name}" and each.artefact]
    told = [(each.step.round, _scores(each)) for each in sorted(made, key=lambda each: each.step.round)]
    if not told:
        return None
    chosen = data.params.evaluate.sets[name]
    n, k = chosen.samples_per_problem, max(chosen.ks)
    lines = {
        f"mean@{n}": ("mean_at_n", None, SOLID),
        **({f"pass@{k}": ("pass_at", str(k), DASHED)} if k > 1 else {}),
        **({"greedy": ("greedy", None, DOTTED)} if chosen.greedy else {}),
    }
    rows: list[dict[str, Any]] = [{"round": round} for round, _ in told]
    drawn = []
    for colour, (label, (key, below, dash)) in zip(COLOURS, lines.items(), strict=False):
        points = []
        for row, (round, scores) in zip(rows, told, strict=True):
            found = scores[key] if below is None else scores[key][below]
            row |= {label: found["value"], f"{label} low": found["low"], f"{label} high": found["high"]}
            if found["value"] is not None:
                points.append(Point(round, found["value"], found["low"], found["high"]))
        drawn.append(Series(label, colour, tuple(points), dots=True, dash=dash))
    problems = told[-1][1]["problems"]
    says = f"{problems} problems of {name}; bands are {data.width} bootstrap intervals over them."
    table = [f"{label}{part}" for label in lines for part in ("", " low", " high")]
    look = replace(SHARES, sizes=HALF)
    return lines_figure(f"set-{name}", name, says, drawn, look, rows, table)


def _scores(each: Done) -> dict[str, Any]:
    assert each.artefact is not None
    found: dict[str, Any] = read_json(each.artefact, "scores.json")
    return found
