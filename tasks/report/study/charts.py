"""The curves of a study as SVG files that stand alone: a line and a band an arm, a faint line a seed."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import altair as alt
import vl_convert

from params.lab import Frontier, Metric
from tasks.report.study.frontier import Curve, curves_of
from tasks.report.study.study import Study
from tasks.stats.paired_tests import student

COLOURS = ("#1f5fa8", "#d1601f", "#2c8a57", "#a33a8e", "#8a6d1c", "#c23b3b", "#4b4bb5", "#4a7f8c")
"""Dark enough to be read on white; arms beyond these repeat them with dashes."""
DASHES: tuple[list[int], ...] = ([], [6, 3], [2, 3])
THEME: dict[str, Any] = {
    "background": "#ffffff",
    "font": "sans-serif",
    "padding": 12,
    "title": {"fontSize": 15, "anchor": "start", "offset": 12, "subtitleColor": "#666", "color": "#222"},
    "view": {"stroke": None},
    "axis": {
        "domain": False,
        "ticks": False,
        "gridColor": "#e4e4e4",
        "labelColor": "#555",
        "labelPadding": 6,
    },
    "axisX": {"grid": False, "domain": True, "domainColor": "#999", "titleColor": "#555"},
    "legend": {"labelFontSize": 12, "symbolSize": 120, "symbolOpacity": 1, "title": None},
}


def chart(study: Study, name: str, metric: Metric) -> str | None:
    """The SVG of one metric, or None where no arm has two rounds of it.

    The axis spans the seeds' own values; a band that is wider than they are is cut off there.
    """
    means, seeds = _means(study, name), _seeds(study, name)
    if len({row["round"] for row in means}) < 2:
        return None
    arms = study.arms()
    colour = alt.Color(
        "arm:N",
        sort=arms,
        scale=alt.Scale(domain=arms, range=[COLOURS[i % len(COLOURS)] for i in range(len(arms))]),
    )
    dashes = [DASHES[i // len(COLOURS) % len(DASHES)] for i in range(len(arms))]
    dash = alt.StrokeDash("arm:N", sort=arms, scale=alt.Scale(domain=arms, range=dashes))
    form = alt.Axis(format=".0%" if metric.percent else "~g", tickCount=6)
    scale = alt.Scale(domain=_span([row["value"] for row in (*seeds, *means)]), nice=False, zero=False)
    x = alt.X("round:Q", title="round", axis=_rounds([row["round"] for row in means]))
    y = alt.Y("value:Q", title=None, axis=form, scale=scale)
    mean = alt.Chart(alt.InlineData(values=means))
    line = alt.Chart(alt.InlineData(values=seeds)).mark_line(opacity=0.25, strokeWidth=1, clip=True)
    layers = (
        mean.mark_area(opacity=0.13, clip=True).encode(
            x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q", color=colour
        ),
        line.encode(x=x, y=y, color=colour, detail="seed:N"),
        mean.mark_line(strokeWidth=2.5, clip=True).encode(x=x, y=y, color=colour, strokeDash=dash),
        mean.mark_point(filled=True, size=24, clip=True, opacity=1).encode(x=x, y=y, color=colour),
    )
    percent = f"{100 * study.lab.confidence:g}%"
    title = alt.TitleParams(
        metric.label or name, subtitle=f"mean over seeds, {percent} t-interval; faint: each seed"
    )
    drawn = alt.layer(*layers).properties(width=620, height=280, title=title)
    return vl_convert.vegalite_to_svg({**drawn.to_dict(validate=False), "config": THEME})


def _means(study: Study, name: str) -> list[dict[str, Any]]:
    """Mean and interval over the seeds that have a value, an arm and round each."""
    rows = []
    for arm in study.arms():
        by_round: dict[int, list[float]] = {}
        for outcome in study.of(arm):
            for round, value in study.series(name, arm, outcome.seed).items():
                if value is not None:
                    by_round.setdefault(round, []).append(value)
        for round, values in sorted(by_round.items()):
            found = student(values, study.lab.confidence)
            rows.append(
                {"arm": arm, "round": round, "value": found.value, "low": found.low, "high": found.high}
            )
    return rows


def _seeds(study: Study, name: str) -> list[dict[str, Any]]:
    return [
        {"arm": outcome.arm, "seed": f"{outcome.arm} {outcome.seed}", "round": round, "value": value}
        for outcome in study.outcomes
        for round, value in sorted(study.series(name, outcome.arm, outcome.seed).items())
        if value is not None
    ]


def _rounds(rounds: list[int]) -> alt.Axis:
    """At most a dozen whole numbers."""
    low, high = min(rounds), max(rounds)
    step = next(
        s * 10**power for power in range(9) for s in (1, 2, 5) if (high - low) / (s * 10**power) <= 11
    )
    return alt.Axis(values=[tick for tick in range(low, high + 1) if tick % step == 0], format="d")


def _span(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return [low - room, high + room]


def frontier_chart(study: Study, name: str) -> str | None:
    """The SVG; None where no run has both figures."""
    frontier = study.lab.frontiers[name]
    known = dict(curves_of(study, frontier))
    means = [
        row for curve, seeds in known.items() for row in _frontier_means(curve, seeds, study.lab.confidence)
    ]
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
    chart = alt.layer(*_frontier_layers(names, means, faint, frontier)).properties(
        width=680, height=420, title=title
    )
    return vl_convert.vegalite_to_svg({**chart.to_dict(validate=False), "config": THEME})


def _frontier_layers(
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


def _frontier_means(curve: str, seeds: Curve, confidence: float) -> list[dict[str, Any]]:
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
