"""The report's charts of evaluation sets and of a mixture's tasks: mean@n, pass@k and greedy by round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from tasks.report.charts import HALF, Figure, Point, Series, series
from tasks.report.run.data import Done, RunData, change, read_json, read_rows, told_by
from tasks.report.run.figures import COLOURS, DASHED, DOTTED, SHARES, SOLID, lines_figure

Row = dict[str, Any]


def set_figures(data: RunData) -> list[Figure | None]:
    """A chart for each set, and for each further task with its training reward."""
    return [
        *(_figure(data, name, []) for name in data.params.evaluate.sets),
        *(_figure(data, name, _rewards(data, name)) for name in data.params.tasks),
    ]


def gains(data: RunData) -> dict[str, dict[str, Any]]:
    """Accuracy on each set and further task, ``before`` and ``after``, with its ``change``."""
    found: dict[str, dict[str, Any]] = {}
    for name in (*data.params.evaluate.sets, *data.params.tasks):
        made = _made(data, name)
        if made:
            first, last = made[0], made[-1]
            found[name] = {"before": _scores(first)["mean_at_n"]["value"]}
        if len(made) > 1:
            answers = [_answers(each) for each in (first, last)]
            found[name] |= {"after": _scores(last)["mean_at_n"]["value"]}
            found[name] |= change(data.params, last.step.round, *answers).named("change")
    return found


def _made(data: RunData, name: str) -> list[Done]:
    """The evaluations on a set or a further task, by round."""
    made = [each for each in data.done if each.step.stage == f"evaluate-{name}" and each.artefact]
    return sorted(made, key=lambda each: each.step.round)


def _figure(data: RunData, name: str, training: list[Row]) -> Figure | None:
    told = [(each.step.round, _scores(each)) for each in _made(data, name)]
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


def _answers(each: Done) -> pa.Table:
    assert each.artefact is not None
    return read_rows(each.artefact, "answers.parquet", plain=True)
