"""What a gain costs: one figure of a study against another, along each arm's rounds.

A curve is an arm's way through the rounds with one seed, from the base model on. Read off it, between two
rounds linearly, are the gain at a given cost and the cost of a given gain: at the first place where the curve
reaches it. A curve that does not get there has none, so that what is said of few seeds is said of those that
did; the tables give their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from params.lab import Frontier, Pair
from tasks.report.format import ABSENT, MINUS, number, percent
from tasks.report.study.study import Study
from tasks.stats.paired_tests import paired, student

Point = tuple[float, float]
Curve = dict[int, list[Point]]
"""Points in the order of the rounds, by seed."""
Table = Callable[[Sequence[str], list[tuple[str, ...]]], str]


def curves_of(study: Study, frontier: Frontier) -> Iterator[tuple[str, Curve]]:
    """Every curve by its name, and its points in the order of the rounds, by seed."""
    named = {"": Pair(x=frontier.x, y=frontier.y), **frontier.beside}
    for arm in study.arms():
        for name, pair in named.items():
            found = {o.seed: _points(study, frontier, pair, arm, o.seed) for o in study.of(arm)}
            kept = {seed: points for seed, points in found.items() if points}
            if kept:
                yield f"{arm} {name}".strip(), kept


def _points(study: Study, frontier: Frontier, pair: Pair, arm: str, seed: int) -> list[Point]:
    xs, ys = study.series(pair.x, arm, seed), study.series(pair.y, arm, seed)
    start = study.series(frontier.y, arm, seed).get(0) if frontier.gain else 0.0
    if start is None:
        return []
    both = ((xs[r], ys[r]) for r in sorted(xs.keys() & ys.keys()))
    return [(x, y - start) for x, y in both if x is not None and y is not None]


def first_at(points: Sequence[Point], goal: float) -> float | None:
    """The second coordinate where the first one first reaches ``goal``; None where it does not."""
    for place, (this, value) in enumerate(points):
        if this >= goal:
            if place == 0:
                return value if this == goal else None
            before, old = points[place - 1]
            return old + (value - old) * (goal - before) / (this - before)
    return None


def frontiers(study: Study) -> dict[str, Any]:
    """What ``summary.json`` says: by frontier and curve, the gain at each cost and the cost of each gain."""
    found: dict[str, Any] = {}
    for name, frontier in study.lab.frontiers.items():
        by_curve = found.setdefault(name, {"x": frontier.x, "y": frontier.y, "curves": {}})["curves"]
        known = dict(curves_of(study, frontier))
        turned = {
            curve: {seed: [(y, x) for x, y in points] for seed, points in seeds.items()}
            for curve, seeds in known.items()
        }
        for curve in known:
            by_curve[curve] = {
                "at_x": {f"{x:g}": _over_seeds(study, known, curve, x) for x in frontier.at_x},
                "at_y": {f"{y:g}": _over_seeds(study, turned, curve, y) for y in frontier.at_y},
            }
    return found


def _over_seeds(study: Study, curves: dict[str, Curve], curve: str, goal: float) -> dict[str, Any]:
    """Over the seeds that got there; ``change`` against the baseline, over those that both have."""

    def reached(name: str) -> dict[int, float]:
        found = {seed: first_at(points, goal) for seed, points in curves.get(name, {}).items()}
        return {seed: value for seed, value in found.items() if value is not None}

    own, baseline = reached(curve), study.lab.baseline or next(iter(study.lab.arms))
    said = {**asdict(student(list(own.values()), study.lab.confidence)), "seeds": len(own)}
    if curve != baseline:
        change = paired(own, reached(baseline), study.lab.confidence)
        said["change"] = asdict(change.interval) | {"p": change.p, "pairs": change.pairs}
    return {**said, "of": len(curves[curve])}


def told(study: Study, name: str, figures: dict[str, Any], table: Table) -> str:
    """The frontier's part of ``summary.md``."""
    frontier = study.lab.frontiers[name]
    show = percent if frontier.percent else number
    parts = [f"## {frontier.label or name}\n\n![{frontier.label or name}](frontier-{name}.svg)\n"]
    width = f"{100 * study.lab.confidence:g}%"
    ways = (
        ("at_x", frontier.y_label, frontier.x_label, frontier.at_x, show, number),
        ("at_y", frontier.x_label, frontier.y_label, frontier.at_y, number, show),
    )
    for key, said, given, goals, value, goal in ways:
        if goals:
            parts.append(
                f"{said[0].upper()}{said[1:]} where a curve first reaches {given} of so much, between rounds "
                f"linearly: mean over seeds with its {width} t-interval, and the seeds that got there.\n"
            )
            rows = [
                (curve, *(_cell(found[key][f"{at:g}"], value) for at in goals))
                for curve, found in figures["curves"].items()
            ]
            parts.append(table(("curve", *(goal(at) for at in goals)), rows))
            parts += _against(study, figures, key, goals, goal, value, table)
    return "\n".join(parts)


def _against(
    study: Study,
    figures: dict[str, Any],
    key: str,
    goals: Sequence[float],
    goal: Callable[[float], str],
    value: Callable[[float], str],
    table: Table,
) -> list[str]:
    """The same, each curve minus the baseline's, seed by seed."""
    rows = [
        (curve, *(_change(found[key][f"{at:g}"]["change"], value) for at in goals))
        for curve, found in figures["curves"].items()
        if all("change" in one for one in found[key].values())
    ]
    baseline = study.lab.baseline or next(iter(study.lab.arms))
    words = f"The same minus {baseline}'s, over the seeds of which both got there.\n"
    return [words, table(("curve", *(goal(at) for at in goals)), rows)] if rows else []


def _change(found: dict[str, Any], show: Callable[[float], str]) -> str:
    if found["value"] is None:
        return ABSENT
    around = f" [{_signed(found['low'], show)}, {_signed(found['high'], show)}]" if found["pairs"] > 1 else ""
    return f"{_signed(found['value'], show)}{around} ({found['pairs']})"


def _signed(value: float, show: Callable[[float], str]) -> str:
    return f"{MINUS if value < 0 else '+'}{show(abs(value))}"


def _cell(found: dict[str, Any], show: Callable[[float], str]) -> str:
    if found["value"] is None:
        return f"{ABSENT} (0/{found['of']})"
    around = f" [{show(found['low'])}, {show(found['high'])}]" if found["low"] is not None else ""
    return f"{show(found['value'])}{around} ({found['seeds']}/{found['of']})".replace("-", MINUS)
