"""Which charts a comparison shows, what each says in a sentence, and the table behind it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tasks.report.charts import HALF, HERO, THIRD, Chart, Point, Series, Size, svg
from tasks.report.comparison.charts import Axis, colour, curves, dash, forest, standalone
from tasks.report.comparison.data import ACCURACY, AXES
from tasks.report.comparison.stats import Comparison, CurvePoint
from tasks.report.comparison.words import ranked
from tasks.report.format import number, percent, points

Rows = tuple[tuple[str, ...], ...]
FORMS = {"round": "d", "tokens": "~s", "trained": "~s", "minutes": "~g", "kl": "~g"}
RANKS = {"rank_1": "Rank-1 probability", "rank_2": "Rank-2 probability", "rank_3": "Rank-3 probability"}


@dataclass(frozen=True)
class Panel:
    """A chart of the page, in as many sizes as the page chooses from."""

    key: str
    """Of its files: ``KEY.svg``, ``KEY.csv``."""
    axis: str
    """Which of ``AXES`` it is read against; empty: always shown."""
    title: str
    says: str
    pictures: tuple[tuple[str, Markup], ...]
    alone: str
    """As an SVG file."""
    header: tuple[str, ...]
    rows: Rows

    @property
    def csv(self) -> str:
        """Its table."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        return text.getvalue()


@dataclass(frozen=True)
class Kind:
    """How a metric is drawn."""

    key: str
    title: str
    says: str
    form: str
    show: Callable[[float | None], str]
    sizes: tuple[tuple[str, Size], ...]


def panels(data: Comparison) -> dict[str, list[Panel]]:
    """Every chart by section: ``effects``, ``learning``, ``lead``, ``frontier``, ``policy``."""
    width = f"{100 * data.lab.confidence:g}%"
    bands = f"mean over seeds; bands are {width} intervals over seeds and problems"
    kinds = {ACCURACY: Kind("accuracy", "Held-out accuracy", bands, ".1~%", percent, HERO)}
    for name in data.metrics():
        if name.startswith("pass@"):
            says = f"chance that one of {name[5:]} answers is right, unbiased; {bands}"
            kinds[name] = Kind(f"pass-at-{name[5:]}", name.capitalize(), says, ".1~%", percent, HALF)
    kinds["greedy"] = Kind("greedy", "Greedy accuracy", f"at temperature 0; {bands}", ".1~%", percent, HALF)
    lead = Kind(
        "lead",
        f"Lead over {data.baseline}",
        f"points, paired by seed and problem; {width} intervals",
        "points",
        points,
        HERO,
    )
    learning = [
        panel
        for name, kind in kinds.items()
        for axis in AXES
        if axis != "kl" and (panel := _curves(data, kind, axis, along(data.curve, name), switched=True))
    ]
    over = f"mean over seeds with {width} intervals"
    entropy = Kind("entropy", "Entropy", f"nats a token; {over}", "~g", number, HALF)
    length = Kind("length", "Response length", f"tokens; {over}", "~g", number, THIRD)
    drift = Kind("kl", "Distance from the base", f"KL, nats a token (k3); {over}", "~g", number, HALF)
    policy = [("entropy", entropy), ("kl_to_base", drift), ("response_length", length)]
    policy += [
        (name, Kind(name.replace("_", "-"), t, over, ".1~%", percent, THIRD)) for name, t in RANKS.items()
    ]
    drawn = [_curves(data, kind, "round", along(data.token_curve, name)) for name, kind in policy]
    lead_panel = _curves(data, lead, "round", data.lead) if data.baseline else None
    front = Kind(
        "frontier", "Accuracy for KL spent", f"each dot an evaluation; {bands}", ".1~%", percent, HERO
    )
    frontier = _curves(data, front, "kl", along(data.curve, ACCURACY))
    return {
        "effects": [panel for panel in [_forest(data)] if panel],
        "learning": learning,
        "lead": [lead_panel] if lead_panel else [],
        "frontier": [frontier] if frontier else [],
        "policy": [panel for panel in drawn if panel],
    }


def along(curve: Callable[[str, str], list[CurvePoint]], name: str) -> Callable[[str], list[CurvePoint]]:
    """The curve of one figure, a method at a time."""
    return lambda arm: curve(arm, name)


def legend(data: Comparison) -> list[tuple[str, str]]:
    """Each method and its colour."""
    return [(arm, colour(place)) for place, arm in enumerate(data.arms)]


def _curves(
    data: Comparison,
    kind: Kind,
    axis: str,
    curve_of: Callable[[str], list[CurvePoint]],
    switched: bool = False,
) -> Panel | None:
    found = {arm: curve_of(arm) for arm in data.arms}
    if all(len(curve) < 2 for curve in found.values()):
        return None
    drawn = [
        Series(arm, colour(place), _points(found[arm], axis), dash=dash(place))
        for place, arm in enumerate(data.arms)
        if found[arm]
    ]
    key = kind.key if axis in ("round", "kl") else f"{kind.key}-by-{axis}"
    ends = [f"{s.name}: from {kind.show(s.points[0].y)} to {kind.show(s.points[-1].y)}." for s in drawn]
    spoken = " ".join([f"{kind.title} by {AXES[axis]}, {kind.says}.", *ends])
    x_axis, y_axis = Axis(AXES[axis], FORMS[axis], axis == "round"), Axis(None, kind.form)

    def draw(size: Size) -> Chart:
        return curves(drawn, size, x_axis, y_axis)

    rows = tuple(
        (arm, _plain(point.at[axis]), *(_plain(v) for v in (e.value, e.interval.low, e.interval.high)))
        for arm, curve in found.items()
        for point in curve
        for e in [point.estimate]
    )
    return Panel(
        key=key,
        axis=axis if switched else "",
        title=kind.title,
        says=kind.says,
        pictures=tuple((css, svg(draw(size), f"{key}{css}", kind.title, spoken)) for css, size in kind.sizes),
        alone=standalone(draw((620, 320)), f"{kind.title} by {AXES[axis]}", legend(data)),
        header=("method", AXES[axis], "value", "low", "high"),
        rows=rows,
    )


def _points(curve: Sequence[CurvePoint], axis: str) -> tuple[Point, ...]:
    return tuple(
        Point(p.at[axis], p.estimate.value, p.estimate.interval.low, p.estimate.interval.high) for p in curve
    )


def _forest(data: Comparison) -> Panel | None:
    effects = [
        e for e in ranked(list(data.effects.get(ACCURACY, {}).values())) if e.estimate.error is not None
    ]
    if not effects:
        return None
    rows = [
        {
            "name": effect.arm,
            "colour": colour(data.arms.index(effect.arm)),
            "value": effect.estimate.value,
            "low": effect.estimate.interval.low,
            "high": effect.estimate.interval.high,
        }
        for effect in effects
    ]
    width = f"{100 * data.lab.confidence:g}%"
    title = f"Held-out accuracy against {data.baseline}"
    says = f"difference after the last round, paired by seed and problem, with {width} intervals"
    spoken = " ".join(
        [f"{title}, {says}.", *(f"{e.arm}: {points(e.estimate.value)} points." for e in effects)]
    )
    return Panel(
        key="effects",
        axis="",
        title=title,
        says=says,
        pictures=tuple(
            (
                css,
                svg(forest(rows, size[0] - (70 if css == "narrow" else 130)), f"effects{css}", title, spoken),
            )
            for css, size in HERO
        ),
        alone=standalone(forest(rows, 500), title, []),
        header=("method", "difference", "low", "high", "p", "p_holm"),
        rows=tuple(
            (
                e.arm,
                *(_plain(v) for v in (e.estimate.value, e.estimate.interval.low, e.estimate.interval.high)),
                _plain(e.estimate.p),
                _plain(e.p_holm),
            )
            for e in effects
        ),
    )


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
