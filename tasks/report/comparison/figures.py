"""Which charts a comparison shows, what each says in a sentence, and the table behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from params.comparison import Metric
from tasks.report.charts import HALF, HERO, THIRD, Chart, Figure, Point, Series, Size, Sizes, pictures
from tasks.report.comparison.charts import BESIDE, Axis, colour, curves, dash, forest, standalone
from tasks.report.comparison.data import ACCURACY, AXES, ENTROPY, KL
from tasks.report.comparison.frontier import curves_of, places
from tasks.report.comparison.stats import CurvePoint, Results
from tasks.report.comparison.words import ranked
from tasks.report.format import number, percent, points
from tasks.report.rendering import csv_text
from tasks.stats.intervals import Interval

PASS_CURVES = 3
"""Of how many pass@k there are curves; all of them stand side by side after the last round."""
BASE = "base model"
FORMS = {"round": "d", "tokens": "~s", "trained": "~s", "minutes": "~g", "kl": "~g"}


@dataclass(frozen=True)
class Panel(Figure):
    """A chart that has files of its own, ``KEY.svg`` and ``KEY.csv``."""

    alone: str = ""
    """As an SVG file."""
    axis: str = ""
    """Which of ``AXES`` it is read against; empty: always shown."""

    @property
    def csv(self) -> str:
        """Its table."""
        return csv_text([self.header, *self.rows])


@dataclass(frozen=True)
class Kind:
    """How a metric is drawn."""

    key: str
    title: str
    says: str
    form: str
    show: Callable[[float | None], str]
    sizes: Sizes


def panels(data: Results) -> dict[str, list[Panel]]:
    """Every chart by section: ``effects``, ``learning``, ``lead``, ``frontier``, ``policy``, ``figures``."""
    bands = f"mean over seeds; bands are {data.width} intervals over seeds and problems"
    kinds = {ACCURACY: Kind("accuracy", "Held-out accuracy", bands, ".1~%", percent, HERO)}
    for name in _spread(list(_passes(data)[1:])):
        says = f"chance that one of {name[5:]} answers is right, unbiased; {bands}"
        kinds[name] = Kind(f"pass-at-{name[5:]}", name.capitalize(), says, ".1~%", percent, HALF)
    kinds["greedy"] = Kind("greedy", "Greedy accuracy", f"at temperature 0; {bands}", ".1~%", percent, HALF)
    learning = [
        _curves(data, kind, axis, data.curves(name), switched=True)
        for name, kind in kinds.items()
        for axis in AXES
        if axis != "kl"
    ]
    says = f"points, paired by seed and problem; {data.width} intervals"
    lead = Kind("lead", f"Lead over {data.baseline}", says, "points", points, HERO)
    says = f"each dot an evaluation; {bands}"
    kl = Kind("frontier", "Accuracy for KL spent", says, ".1~%", percent, HERO)
    over = f"mean over seeds with {data.width} intervals"
    policy = policy_kinds(over)
    more = {
        name: _kind(name, metric, f"{over} over them")
        for name, metric in data.metrics.items()
        if metric.chart and name not in data.held_out and name not in policy
    }
    front = [_curves(data, kl, "kl", data.curves(ACCURACY))]
    found = {
        "effects": [_forest(data)],
        "learning": [*learning, _pass_at(data)],
        "lead": [_curves(data, lead, "round", {arm: data.lead(arm) for arm in data.arms})],
        "frontier": [*front, *(_frontier(data, name) for name in data.comparison.frontiers)],
        "policy": [_curves(data, kind, "round", data.curves(name)) for name, kind in policy.items()],
        "figures": [_curves(data, kind, "round", data.curves(name)) for name, kind in more.items()],
    }
    return {section: [panel for panel in drawn if panel] for section, drawn in found.items()}


def policy_kinds(over: str) -> dict[str, Kind]:
    """The figures of a policy that every comparison draws."""
    ranks = {
        f"evaluate.rank_probabilities.{i}": Kind(
            f"rank-{i}", f"Rank-{i} probability", over, ".1~%", percent, THIRD
        )
        for i in (1, 2, 3)
    }
    length = Kind("length", "Response length", f"tokens; {over}", "~g", number, THIRD)
    return {
        ENTROPY: Kind("entropy", "Entropy", f"nats per token; {over}", "~g", number, HALF),
        KL: Kind("kl", "Distance from the base", f"KL, nats per token (k3); {over}", "~g", number, HALF),
        "evaluate.response_length": length,
        **ranks,
    }


def _passes(data: Results) -> list[str]:
    """Pass@k for every k, accuracy being the first."""
    return [ACCURACY, *(name for name in data.held_out if name.startswith("pass@"))]


def _spread(names: Sequence[str]) -> list[str]:
    """At most ``PASS_CURVES`` of them, the last one among these."""
    last = len(names) - 1
    return (
        sorted({names[last * i // (PASS_CURVES - 1)] for i in range(PASS_CURVES)}, key=names.index)
        if names
        else []
    )


def _pass_at(data: Results) -> Panel | None:
    """What more answers bring: pass@k against k after the last round, the base model beside the arms."""
    names = _passes(data)
    if len(names) < PASS_CURVES:
        return None
    found: dict[str, list[tuple[float, float, Interval]]] = {}
    for arm in (*data.arms, BASE):
        ends = [(n, data.base(n) if arm == BASE else data.final(arm, n)) for n in names]
        points = [(1.0 if n == ACCURACY else float(n[5:]), e.value, e.interval) for n, e in ends if e]
        found |= {arm: points} if points else {}
    says = f"one of k answers is right, after the last round; grey: the base model; {data.width} intervals"
    kind = Kind("pass-at-k", "Pass@k", says, ".1~%", percent, HERO)
    return _panel(data, kind.key, kind, found, Axis("answers", "d", doubling=True), Axis(None, kind.form), "")


def _kind(name: str, metric: Metric, says: str) -> Kind:
    label = metric.label or name
    form, show = (".1~%", percent) if metric.percent else ("~g", number)
    return Kind(name, f"{label[0].upper()}{label[1:]}", says, form, show, HALF)


def _curves(
    data: Results, kind: Kind, axis: str, found: Mapping[str, Sequence[CurvePoint]], switched: bool = False
) -> Panel | None:
    if all(len(curve) < 2 for curve in found.values()):
        return None
    drawn = {
        arm: [(p.at[axis], p.estimate.value, p.estimate.interval) for p in curve]
        for arm, curve in found.items()
        if curve
    }
    key = kind.key if axis in ("round", "kl") else f"{kind.key}-by-{axis}"
    x_axis = Axis(AXES[axis], FORMS[axis], axis == "round")
    return _panel(data, key, kind, drawn, x_axis, Axis(None, kind.form), axis if switched else "")


def _frontier(data: Results, name: str) -> Panel | None:
    """What a study's frontier shows: one figure against another, along the rounds."""
    frontier = data.comparison.frontiers[name]
    beside = f"; fine dots: {', '.join(frontier.beside)}" if frontier.beside else ""
    says = f"each dot a round, mean over seeds; bands are {data.width} intervals over them{beside}"
    form, show = (".1~%", percent) if frontier.percent else ("~g", number)
    kind = Kind(f"frontier-{name}", frontier.label or name, says, form, show, HERO)
    drawn = {curve: places(seeds, data.confidence) for curve, seeds in curves_of(data, frontier).items()}
    if not drawn:
        return None
    axes = Axis(frontier.x_label, "~g"), Axis(frontier.y_label, form)
    return _panel(data, kind.key, kind, drawn, *axes, "")


def _panel(
    data: Results,
    key: str,
    kind: Kind,
    curves_by_name: Mapping[str, Sequence[tuple[float, float, Interval]]],
    x_axis: Axis,
    y_axis: Axis,
    switch: str,
) -> Panel:
    """The chart of these curves; each has the colour of the arm that its name begins with."""
    drawn = []
    for name, curve in curves_by_name.items():
        arm, _, beside = name.partition(" ")
        dots = tuple(Point(x, y, around.low, around.high) for x, y, around in curve)
        if name == BASE:
            drawn.append(Series(name, "var(--base)", dots, dash=BESIDE))
            continue
        place = data.arms.index(arm)
        drawn.append(Series(name, colour(place), dots, dash=BESIDE if beside else dash(place)))
    ends = [f"{s.name}: from {kind.show(s.points[0].y)} to {kind.show(s.points[-1].y)}." for s in drawn]
    spoken = " ".join([f"{kind.title} by {x_axis.title}, {kind.says}.", *ends])

    def draw(size: Size, legend: bool = False) -> Chart:
        return curves(drawn, size, x_axis, y_axis, legend)

    return Panel(
        key=key,
        axis=switch,
        title=kind.title,
        says=kind.says,
        pictures=pictures(draw, kind.sizes, key, kind.title, spoken),
        alone=standalone(draw((620, 320), True), kind.title, kind.says),
        header=(data.noun, x_axis.title or "", "value", "low", "high"),
        rows=tuple(
            (name, *(_plain(v) for v in (x, y, around.low, around.high)))
            for name, curve in curves_by_name.items()
            for x, y, around in curve
        ),
    )


def _forest(data: Results) -> Panel | None:
    effects = [
        e for e in ranked(list(data.effects.get(ACCURACY, {}).values())) if e.estimate.error is not None
    ]
    if not effects:
        return None
    rows = [
        {
            "name": effect.arm,
            "colour": colour(data.arms.index(effect.arm)),
            **asdict(effect.estimate.interval),
        }
        for effect in effects
    ]
    title = f"Held-out accuracy against {data.baseline}"
    says = f"difference after the last round, paired by seed and problem, with {data.width} intervals"
    spoken = " ".join(
        [f"{title}, {says}.", *(f"{e.arm}: {points(e.estimate.value)} points." for e in effects)]
    )

    def draw(size: Size) -> Chart:
        names = 130 if size[0] > 300 else 70
        return forest(rows, size[0] - names)

    return Panel(
        key="effects",
        title=title,
        says=says,
        pictures=pictures(draw, HERO, "effects", title, spoken),
        alone=standalone(forest(rows, 500), title, says),
        header=(data.noun, "difference", "low", "high", "p", "p_holm"),
        rows=tuple(
            (
                e.arm,
                *(_plain(v) for v in (*asdict(e.estimate.interval).values(), e.estimate.p, e.p_holm)),
            )
            for e in effects
        ),
    )


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
