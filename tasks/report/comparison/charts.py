"""The charts of a comparison, as SVG: curves with bands, the effects as a forest, points on a plane.

Inside the page colours are CSS variables, so that charts follow light and dark and a legend can hide an
arm; as files of their own they carry the light colours.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

from tasks.report.charts import THEME, Chart, Series, Size, span

PALETTE = (
    ("#0b6e63", "#45c4b0"),
    ("#b45f06", "#eda04b"),
    ("#6d4bb0", "#b79cf0"),
    ("#b3325e", "#f08cab"),
    ("#2563a8", "#7ab4f5"),
    ("#6b7a12", "#c3d14e"),
    ("#8a4b32", "#d9a58c"),
    ("#4b5563", "#aab4c2"),
)
"""An arm's colour on light and on dark paper."""
DASHES: tuple[tuple[int, ...], ...] = ((), (7, 4), (2, 4), (9, 3, 2, 3))
"""How arms differ without colour: neighbours differ in both, and so do arms that share a colour."""
BESIDE = (1, 3)
"""The line of a curve beside an arm's, in its colour."""
LEGEND: dict[str, Any] = {
    "title": None,
    "symbolType": "stroke",
    "symbolSize": 700,
    "symbolOpacity": 1,
    "symbolStrokeWidth": 2.25,
    "labelFontSize": 12,
    "labelLimit": 220,
}
POINTS = "datum.value === 0 ? '0' : format(datum.value * 100, '+.3~g')"
"""A difference of shares, in points."""
LIGHT = {
    "var(--paper)": "#fdfcf9",
    "var(--ink)": "#1c1b19",
    "var(--muted)": "#6a665e",
    "var(--grid)": "#ebe7dd",
    "var(--rule-strong)": "#bfb8a8",
    "var(--base)": "#8d8677",
}


@dataclass(frozen=True)
class Axis:
    """How an axis is written."""

    title: str | None
    form: str
    whole: bool = False
    doubling: bool = False
    """Whether each doubling takes as much room as any other."""


def colour(place: int) -> str:
    """The colour of an arm, by its place among them."""
    return f"var(--arm-{place})"


def paints(place: int) -> tuple[str, str]:
    """What that colour is on light and on dark paper."""
    return PALETTE[place % len(PALETTE)]


def dash(place: int) -> tuple[int, ...]:
    """Its line."""
    return DASHES[(place + place // len(PALETTE)) % len(DASHES)]


def curves(drawn: Sequence[Series], size: Size, x_axis: Axis, y_axis: Axis, legend: bool = False) -> Chart:
    """One line per arm with its band and a dot where something was measured; the first is on top."""
    values = [
        {**vars(point), "arm": each.name, "order": place}
        for each in reversed(drawn)
        for place, point in enumerate(each.points)
    ]
    chart, names = alt.Chart(alt.InlineData(values=values)), [each.name for each in drawn]
    key = alt.Legend(**LEGEND) if legend else None
    paint = alt.Scale(domain=names, range=[each.colour for each in drawn])
    colours = alt.Color("arm:N", scale=paint, legend=key)
    dashes = alt.Scale(domain=names, range=[list(each.dash) for each in drawn])
    scale, axis = _y_scale(drawn, y_axis), _axis(x_axis, size, True)
    xs = [value["x"] for value in values]
    x = alt.X("x:Q", title=x_axis.title, scale=span(min(xs), max(xs), x_axis.doubling), axis=axis)
    y = alt.Y("y:Q", title=y_axis.title, scale=scale, axis=_axis(y_axis, size, False))
    low, high = (alt.Y(f"{edge}:Q", scale=scale) for edge in ("low", "high"))
    band = chart.mark_area(opacity=0.09, clip=True)
    edge = chart.mark_line(opacity=0.4, strokeWidth=0.75, clip=True)
    edges = {"x": x, "color": colours, "detail": "arm:N", "order": alt.Order("order:Q")}
    line = chart.mark_line(strokeWidth=2.25, strokeCap="round", clip=True)
    dots = chart.mark_point(size=26 if size[0] > 300 else 18, opacity=1, filled=True, fill="var(--paper)")
    layers = [
        band.encode(x=x, y=low, y2="high:Q", color=colours, detail="arm:N"),
        edge.encode(y=low, **edges),
        edge.encode(y=high, **edges),
        line.encode(y=y, strokeDash=alt.StrokeDash("arm:N", scale=dashes, legend=key), **edges),
        dots.encode(
            x=x, y=y, stroke=alt.Stroke("arm:N", scale=paint, legend=None), strokeWidth=alt.value(1.75)
        ),
    ]
    return alt.layer(*layers).properties(width=size[0], height=size[1])


def forest(rows: Sequence[dict[str, Any]], width: int) -> Chart:
    """Effects with their intervals, one row per arm: ``name``, ``colour``, ``value``, ``low``, ``high``."""
    names = [row["name"] for row in rows]
    ends = [row[part] for row in rows for part in ("value", "low", "high")] + [0.0]
    room = 0.05 * (max(ends) - min(ends)) or 0.01
    scale = span(min(ends) - room, max(ends) + room)
    axis = alt.Axis(labelLimit=150, labelColor="var(--ink)", labelFontSize=13)
    y = alt.Y("name:N", sort=names, title=None, axis=axis)
    percent = alt.Axis(labelExpr=POINTS, grid=True, domain=False, tickCount=6)
    zero = alt.Chart(alt.InlineData(values=[{"x": 0.0}])).mark_rule(color="var(--ink)", strokeWidth=1.25)
    chart = alt.Chart(alt.InlineData(values=list(rows)))
    colours = alt.Color("colour:N", scale=None)
    bar = chart.mark_rule(strokeWidth=9, opacity=0.3, strokeCap="round")
    dots = chart.mark_point(size=100, opacity=1, filled=True, fill="var(--paper)")
    stroke = alt.Stroke("colour:N", scale=None)
    layers = [
        zero.encode(x=alt.X("x:Q", scale=scale, axis=percent, title="points of held-out accuracy")),
        bar.encode(x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, color=colours),
        dots.encode(x=alt.X("value:Q", scale=scale), y=y, stroke=stroke, strokeWidth=alt.value(1.75)),
    ]
    return alt.layer(*layers).properties(width=width, height=alt.Step(36))


def standalone(chart: Chart, title: str, says: str) -> str:
    """The chart as a file of its own: on paper, with its title, what it says and light colours."""
    head = alt.TitleParams(
        title,
        subtitle=textwrap.wrap(f"{says[0].upper()}{says[1:]}.", 100),
        anchor="start",
        offset=14,
        fontSize=15,
        subtitleColor="var(--muted)",
        subtitlePadding=5,
    )
    config = {**THEME, "background": "var(--paper)", "padding": 14}
    drawn = vl_convert.vegalite_to_svg(
        {**chart.properties(title=head).to_dict(validate=False), "config": config}
    )
    for variable, value in LIGHT.items():
        drawn = drawn.replace(variable, value)
    drawn = re.sub(r"var\(--arm-(\d+)\)", lambda found: paints(int(found[1]))[0], drawn)
    return re.sub(r"var\(--[a-z0-9-]+\)", "#1c1b19", drawn)


def _axis(axis: Axis, size: Size, horizontal: bool) -> alt.Axis:
    ticks = (9 if size[0] > 500 else 5) if horizontal else 5
    more: dict[str, Any] = {"tickMinStep": 1} if axis.whole else {}
    if axis.form == "points":
        return alt.Axis(labelExpr=POINTS, tickCount=ticks, **more)
    return alt.Axis(format=axis.form, tickCount=ticks, labelOverlap=True, **more)


def _y_scale(drawn: Sequence[Series], axis: Axis) -> alt.Scale:
    """Over values and bands; bands of what has no bounds are cut off where they dwarf the values."""
    values = [point.y for each in drawn for point in each.points]
    spread = max(values) - min(values) or abs(max(values)) or 1.0
    edges = [edge for each in drawn for p in each.points for edge in (p.low, p.high) if edge is not None]
    low, high = min([*values, *edges]), max([*values, *edges])
    if "%" in axis.form:
        high = min(high, 1.0)
    else:
        low, high = max(low, min(values) - 4 * spread), min(high, max(values) + 4 * spread)
    low = max(low, 0.0) if min(values) >= 0 else low
    return span(low, high)
