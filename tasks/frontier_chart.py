"""A frontier as an SVG file that stands alone: a curve an arm, with the intervals of both figures."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import altair as alt
import vl_convert

from params.lab import Frontier
from tasks.contrasts import student
from tasks.frontier import Curve, curves_of
from tasks.study import Study
from tasks.study_charts import COLOURS, DASHES, THEME


def frontier_chart(study: Study, name: str) -> str | None:
    """The SVG; None where no run has both figures."""
    frontier = study.lab.frontiers[name]
    known = dict(curves_of(study, frontier))
    means = [row for curve, seeds in known.items() for row in _means(curve, seeds, study.lab.confidence)]
    if not means:
        return None
    names = list(known)
    faint = [
        {"curve": curve, "seed": f"{curve} {seed}", "x": x, "y": y, "step": step}
        for curve, seeds in known.items()
        for seed, points in seeds.items()
        for step, (x, y) in enumerate(points)
    ]
    title = alt.TitleParams(
        frontier.label or name,
        subtitle=f"mean over seeds, {100 * study.lab.confidence:g}% t-intervals of both; faint: each seed",
    )
    chart = alt.layer(*_layers(names, means, faint, frontier)).properties(width=680, height=420, title=title)
    return vl_convert.vegalite_to_svg({**chart.to_dict(validate=False), "config": THEME})


def _layers(
    names: list[str], means: list[dict[str, Any]], faint: list[dict[str, Any]], frontier: Frontier
) -> list[alt.Chart]:
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    dashes = [DASHES[i // len(COLOURS) % len(DASHES)] for i in range(len(names))]
    colour = alt.Color("curve:N", sort=names, scale=alt.Scale(domain=names, range=colours))
    dash = alt.StrokeDash("curve:N", sort=names, scale=alt.Scale(domain=names, range=dashes))
    every = [*means, *faint]
    x_scale = alt.Scale(domain=_span([row["x"] for row in every]), nice=False)
    y_scale = alt.Scale(domain=_span([row["y"] for row in every]), nice=False, zero=False)
    form = alt.Axis(format=".0%" if frontier.percent else "~g", tickCount=6)
    x = alt.X("x:Q", title=frontier.x_label, scale=x_scale, axis=alt.Axis(format="~g", tickCount=8))
    y = alt.Y("y:Q", title=frontier.y_label, scale=y_scale, axis=form)
    mean, seeds = alt.Chart(alt.InlineData(values=means)), alt.Chart(alt.InlineData(values=faint))
    order = alt.Order("step:Q")
    return [
        seeds.mark_line(opacity=0.22, strokeWidth=1, clip=True).encode(
            x=x, y=y, color=colour, detail="seed:N", order=order
        ),
        mean.mark_rule(opacity=0.35, clip=True).encode(
            x=x, y=alt.Y("y_low:Q", scale=y_scale), y2="y_high:Q", color=colour
        ),
        mean.mark_rule(opacity=0.35, clip=True).encode(
            x=alt.X("x_low:Q", scale=x_scale), x2="x_high:Q", y=y, color=colour
        ),
        mean.mark_line(strokeWidth=2.5, clip=True).encode(
            x=x, y=y, color=colour, strokeDash=dash, order=order
        ),
        mean.mark_point(filled=True, size=36, opacity=1, clip=True).encode(x=x, y=y, color=colour),
    ]


def _means(curve: str, seeds: Curve, confidence: float) -> list[dict[str, Any]]:
    """A point a round: the means of both figures over the seeds that got so far, and their intervals."""
    rows = []
    for step, points in enumerate(zip_longest(*seeds.values())):
        there = [point for point in points if point is not None]
        x, y = (student([point[axis] for point in there], confidence) for axis in (0, 1))
        rows.append(
            {
                **{"curve": curve, "step": step, "x": x.value, "y": y.value},
                **{"x_low": x.low, "x_high": x.high, "y_low": y.low, "y_high": y.high},
            }
        )
    return rows


def _span(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return [low - room, high + room]
