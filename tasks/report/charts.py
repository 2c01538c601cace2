"""Charts as inline SVG, drawn when the page is built: no script draws anything in the reader's browser.

Colours are CSS variables of the page, so a chart follows light and dark; text is set in the page's font.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

Chart = alt.Chart | alt.LayerChart | alt.FacetChart
Size = tuple[int, int]
Sizes = tuple[tuple[str, Size], ...]
HERO: Sizes = (("wide", (930, 340)), ("narrow", (286, 230)))
HALF: Sizes = (("wide", (408, 230)), ("narrow", (286, 190)))
THIRD: Sizes = (("", (250, 160)),)
"""Sizes of the plotting area, by the CSS class that shows them."""
THEME: dict[str, Any] = {
    "aria": False,
    "background": "transparent",
    "font": "sans-serif",
    "padding": {"left": 2, "right": 10, "top": 8, "bottom": 2},
    "view": {"stroke": None},
    "axis": {
        "domain": False,
        "ticks": False,
        "gridColor": "var(--grid)",
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelPadding": 7,
        "titlePadding": 8,
    },
    "axisX": {"grid": False, "domain": True, "domainColor": "var(--rule-strong)", "labelFlush": False},
    "axisY": {"minExtent": 34},
    "scale": {"bandPaddingInner": 0.28},
}


@dataclass(frozen=True)
class Point:
    """One value of a series, with its interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """One line: its name in the legend, its colour (a CSS variable) and its points."""

    name: str
    colour: str
    points: tuple[Point, ...]
    dots: bool = False
    dash: tuple[int, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A chart with everything that lets a reader do without seeing it."""

    key: str
    title: str
    says: str
    """One sentence with the numbers that matter."""
    pictures: tuple[tuple[str, Markup], ...]
    """(CSS class, SVG): several where the page chooses by its width."""
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: tuple[tuple[str, str, str], ...] = ()
    """(colour, name, how it is drawn: a CSS class)."""


def series(name: str, colour: str, rows: Iterable[dict[str, Any]], column: str, **style: Any) -> Series:
    """A line through one column of the rounds, with its ``_low`` and ``_high`` where they exist."""
    points = tuple(
        Point(row["round"], row[column], row.get(f"{column}_low"), row.get(f"{column}_high"))
        for row in rows
        if row.get(column) is not None
    )
    return Series(name, colour, points, **style)


def lines(
    drawn: Sequence[Series], size: Size, form: str, y_domain: tuple[float, float] | None = None
) -> Chart:
    """Lines over rounds, the first on top. A series with dots is measured only where the dots are."""
    xs = [point.x for each in drawn for point in each.points]
    x = alt.X("x:Q", title="round", scale=span(min(xs), max(xs)), axis=_round_axis(min(xs), max(xs), size))
    flat = all(point.y == 0 for each in drawn for point in each.points)
    y_scale = span(*(y_domain or (0.0, 1.0))) if y_domain or flat else alt.Scale(zero=True, nice=5)
    y = alt.Y("y:Q", title=None, scale=y_scale, axis=alt.Axis(format=form, tickCount=5))
    layers: list[alt.Chart] = []
    for each in reversed(drawn):
        values = [vars(point) for point in each.points]
        chart = alt.Chart(alt.InlineData(values=values))
        if any(point.low is not None for point in each.points):
            layers.append(
                chart.mark_area(color=each.colour, opacity=0.14).encode(x=x, y=alt.Y("low:Q"), y2="high:Q")
            )
        layers.append(
            chart.mark_line(
                color=each.colour,
                strokeWidth=2.25,
                strokeDash=list(each.dash),
                strokeCap="round",
                strokeJoin="round",
            ).encode(x=x, y=y)
        )
        if each.dots or len(each.points) == 1:
            layers.append(
                chart.mark_point(
                    filled=True, fill="var(--paper)", stroke=each.colour, strokeWidth=2, size=42, opacity=1
                ).encode(x=x, y=y)
            )
    return alt.layer(*layers).properties(width=size[0], height=size[1])


def dumbbells(rows: Sequence[dict[str, Any]], width: int) -> Chart:
    """Before and after, a row each: ``name``, ``before``, ``after`` and their ``_low`` and ``_high``."""
    base = alt.Chart(alt.InlineData(values=list(rows)))
    names = [row["name"] for row in rows]
    axis = alt.Axis(labelLimit=140, labelColor="var(--ink)", labelFontSize=12.5)
    y = alt.Y("name:N", sort=names, title=None, axis=axis)
    scale = span(0.0, 1.0)
    x_axis = alt.Axis(format=".0%", grid=True, domain=False, tickCount=5)
    layers = [
        base.mark_rule(color="var(--rule-strong)", strokeWidth=2).encode(
            x=alt.X("before:Q", scale=scale, axis=x_axis, title=None), x2="after:Q", y=y
        )
    ]
    for which, colour in (("before", "var(--base)"), ("after", "var(--final)")):
        layers.append(
            base.mark_rule(color=colour, strokeWidth=9, opacity=0.28).encode(
                x=alt.X(f"{which}_low:Q", scale=scale), x2=f"{which}_high:Q", y=y
            )
        )
        layers.append(
            base.mark_point(filled=True, color=colour, opacity=1, size=90).encode(
                x=alt.X(f"{which}:Q", scale=scale), y=y
            )
        )
    return alt.layer(*layers).properties(width=width, height=alt.Step(34))


def stacked(
    rows: Sequence[dict[str, Any]], stages: Sequence[str], size: Size, column: str, title: str
) -> Chart:
    """A column by round and stage, or whatever stands in its place; what came from the cache is faint."""
    colours = [f"var(--stage-{position})" for position in range(len(stages))]
    columns = list(dict.fromkeys(row["round"] for row in rows))
    every = max(1, -(-len(columns) // (22 if size[0] > 500 else 8)))
    shown = [column for position, column in enumerate(columns) if position % every == 0]
    axis = alt.Axis(values=shown, labelAngle=0, labelOverlap=True)
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=list(rows)))
        .mark_bar()
        .encode(
            x=alt.X("round:O", sort=columns, title="round", axis=axis),
            y=alt.Y(f"{column}:Q", title=title, axis=alt.Axis(tickCount=5)),
            color=alt.Color("stage:N", scale=alt.Scale(domain=list(stages), range=colours), legend=None),
            order=alt.Order("order:Q"),
            opacity=alt.condition("datum.cached === true", alt.value(0.35), alt.value(1.0)),
        )
        .properties(width=size[0], height=size[1])
    )
    return chart


def timeline(
    rows: Sequence[dict[str, Any]], lanes: Sequence[str], stages: Sequence[str], size: Size, unit: str
) -> Chart:
    """A bar from ``begin`` to ``end``, in ``unit``, in its ``lane``'s row and its ``stage``'s colour."""
    colours = [f"var(--stage-{position})" for position in range(len(stages))]
    low, high = min(row["begin"] for row in rows), max(row["end"] for row in rows)
    axis = alt.Axis(labelColor="var(--ink)", labelFontSize=12.5)
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=list(rows)))
        .mark_bar(stroke="var(--paper)", strokeWidth=0.5)
        .encode(
            x=alt.X("begin:Q", title=unit, scale=span(low, high), axis=alt.Axis(tickCount=6)),
            x2="end:Q",
            y=alt.Y("lane:N", sort=list(lanes), title=None, axis=axis),
            color=alt.Color("stage:N", scale=alt.Scale(domain=list(stages), range=colours), legend=None),
        )
        .properties(width=size[0], height=alt.Step(34))
    )
    return chart


def pictures(
    draw: Callable[[Size], Chart], sizes: Sizes, key: str, title: str, description: str
) -> tuple[tuple[str, Markup], ...]:
    """The chart in each size, with the CSS class that shows it."""
    return tuple((css, svg(draw(size), key + css, title, description)) for css, size in sizes)


def svg(chart: Chart, key: str, title: str, description: str) -> Markup:
    """The chart as an SVG element that scales with the page and tells a screen reader what it is."""
    drawn = vl_convert.vegalite_to_svg({**chart.to_dict(validate=False), "config": THEME})
    drawn = re.sub(r'\b(id="|url\(#)', rf"\g<1>{key}-", drawn)
    drawn = re.sub(r' font-family="[^"]*"', "", drawn)
    viewbox = re.search(r'viewBox="[^"]*"', drawn)
    body = drawn[drawn.index(">") + 1 :]
    return Markup(  # noqa: S704 - what is not the chart's own is escaped
        f'<svg role="img" aria-labelledby="{key}-t {key}-d" {viewbox and viewbox[0]}>'
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(description)}</desc>{body}'
    )


def span(low: float, high: float, doubling: bool = False) -> alt.Scale:
    """An axis from here to there and no further; its steps are sums, or doublings."""
    domain = [low, high if high > low else low + 1]
    if doubling:
        return alt.Scale(type="log", base=2, domain=domain, nice=False)
    return alt.Scale(domain=domain, nice=False, zero=False)


def _round_axis(low: float, high: float, size: Size) -> alt.Axis:
    room = 11 if size[0] > 500 else 6
    step = next(s for s in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 10**9) if (high - low) / s <= room)
    ticks = [tick for tick in range(int(low), int(high) + 1) if tick % step == 0]
    return alt.Axis(values=ticks, format="d")
