"""The report's charts of evaluation sets and of a mixture's tasks: mean@n, pass@k and greedy by round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tasks.report.charts import HALF, Figure, Point, Series, series
from tasks.report.run.data import Done, RunData, read_json, told_by
from tasks.report.run.figures import COLOURS, DASHED, DOTTED, SHARES, SOLID, lines_figure

Row = dict[str, Any]


def set_figures(data: RunData) -> list[Figure | None]:
    """A chart for each set, and for each further task with its training reward."""
    return [
        *(_figure(data, name, []) for name in data.params.evaluate.sets),
        *(_figure(data, name, _rewards(data, name)) for name in data.params.tasks),
    ]


def _figure(data: RunData, name: str, training: list[Row]) -> Figure | None:
    made = [each for each in data.done if each.step.stage == f"evaluate-{name}" and each.artefact]
    told = [(each.step.round, _scores(each)) for each in sorted(made, key=lambda each: each.step.round)]
    if not told:
        return None
    first = told[0][1]
    k = max(map(int, first["pass_at"]))
    lines = {
        f"mean@{first['samples_per_problem']}": ("mean_at_n", None, SOLID),
        **({f"pass@{k}": ("pass_at", str(k), DASHED)} if k > 1 else {}),
        "greedy": ("greedy", None, DOTTED),
    }
    rows: dict[int, Row] = {row["round"]: row for row in training}
    drawn = []
    for colour, (label, (key, below, dash)) in zip(COLOURS, lines.items(), strict=False):
        points = []
        for round, scores in told:
            found = scores[key] if below is None else scores[key][below]
            row = rows.setdefault(round, {"round": round})
            row |= {label: found["value"], f"{label} low": found["low"], f"{label} high": found["high"]}
            if found["value"] is not None:
                points.append(Point(round, found["value"], found["low"], found["high"]))
        drawn.append(Series(label, colour, tuple(points), dots=True, dash=dash))
    columns = [f"{label}{part}" for label in lines for part in ("", " low", " high")]
    if training:
        columns.append("training reward")
        drawn.append(series("training reward", COLOURS[len(drawn)], training, "training reward", dash=DOTTED))
    table = [{**dict.fromkeys(columns), **rows[round]} for round in sorted(rows)]
    says = f"{first['problems']} problems of {name}; bands are {data.width} bootstrap intervals over them."
    return lines_figure(f"set-{name}", name, says, drawn, replace(SHARES, sizes=HALF), table, columns)


def _rewards(data: RunData, name: str) -> list[Row]:
    """The mean reward of a task's own answers, by round."""
    told = told_by(data, "rollout")
    return [{"round": n, "training reward": said.get(name, {}).get("reward_mean")} for n, said in told]


def _scores(each: Done) -> dict[str, Any]:
    assert each.artefact is not None
    found: dict[str, Any] = read_json(each.artefact, "scores.json")
    return found
