"""What a gain costs: one figure of a comparison against another, along each arm's rounds.

A curve is an arm's way through the rounds with one seed, from the base model on. Read off it, between two
rounds linearly, are the gain at a given cost and the cost of a given gain: at the first place where the curve
reaches it. A curve that does not get there has none, so that what is said of few seeds is said of those that
did; the tables give their number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import Any

from params.comparison import Frontier, Pair
from tasks.report.comparison.data import Compared
from tasks.report.comparison.stats import Results
from tasks.report.comparison.tables import Cell, Table
from tasks.report.format import count, number, percent, signed
from tasks.stats.intervals import Estimate, Interval
from tasks.stats.paired_tests import paired, student

Point = tuple[float, float]
Curve = dict[int, list[Point]]
"""Points in the order of the rounds, by seed."""


def curves_of(data: Results, frontier: Frontier) -> dict[str, Curve]:
    """Every curve by its name: the arm's, and with a word behind it those beside it."""
    named = {"": Pair(x=frontier.x, y=frontier.y), **frontier.beside}
    found = {
        f"{arm} {name}".strip(): {run.seed: _points(frontier, pair, run) for run in data.of(arm)}
        for arm in data.arms
        for name, pair in named.items()
    }
    kept = {name: {s: points for s, points in seeds.items() if points} for name, seeds in found.items()}
    return {name: seeds for name, seeds in kept.items() if seeds}


def _points(frontier: Frontier, pair: Pair, run: Compared) -> list[Point]:
    start = run.figure(frontier.y, 0) if frontier.gain else 0.0
    both = [(run.figure(pair.x, r), run.figure(pair.y, r)) for r in sorted(run.figures.get(pair.x, {}))]
    known = [(x, y) for x, y in both if x is not None and y is not None]
    base = run.figure(frontier.x, 0), run.figure(frontier.y, 0)
    if known and run.figure(pair.x, 0) is None and base[0] is not None and base[1] is not None:
        known.insert(0, (base[0], base[1]))  # a teacher, too, was the base model once
    return [] if start is None else [(x, y - start) for x, y in known]


def first_at(points: Sequence[Point], goal: float) -> float | None:
    """The second coordinate where the first one first reaches ``goal``; None where it does not."""
    for place, (this, value) in enumerate(points):
        if this >= goal:
            if place == 0:
                return value if this == goal else None
            before, old = points[place - 1]
            return old + (value - old) * (goal - before) / (this - before)
    return None


def places(curve: Curve, confidence: float) -> list[tuple[float, float, Interval]]:
    """One place per round: the means over the seeds that got so far, and the second's interval."""
    found = []
    for points in zip_longest(*curve.values()):
        there = dict(enumerate(point for point in points if point is not None))
        x, y = (student({s: point[axis] for s, point in there.items()}, confidence) for axis in (0, 1))
        if x and y:
            found.append((x.value, y.value, y.interval))
    return found


def frontiers(data: Results) -> dict[str, Any]:
    """What ``summary.json`` says: by frontier and curve, the gain at each cost and the cost of each gain."""
    found: dict[str, Any] = {}
    for name, frontier in data.comparison.frontiers.items():
        known = curves_of(data, frontier)
        found[name] = {
            "x": frontier.x,
            "y": frontier.y,
            "curves": {
                curve: {
                    way: {f"{goal:g}": _told(data, known, curve, goal, way) for goal in goals}
                    for way, goals in (("at_x", frontier.at_x), ("at_y", frontier.at_y))
                }
                for curve in known
            },
        }
    return found


def frontier_tables(data: Results, name: str) -> list[Table]:
    """The readings of a frontier, and the same less the baseline's."""
    frontier = data.comparison.frontiers[name]
    known, show = curves_of(data, frontier), percent if frontier.percent else number
    label = frontier.label or name
    ways: tuple[tuple[str, str, str, Sequence[float], Callable[..., str], Callable[..., str]], ...] = (
        ("at_x", frontier.y_label, frontier.x_label, frontier.at_x, show, number),
        ("at_y", frontier.x_label, frontier.y_label, frontier.at_y, number, show),
    )
    found = []
    for way, what, given, goals, value, at in ways:
        header = ("curve", *(f"at {at(goal)}" for goal in goals))
        key = f"frontier-{name}-{way.replace('_', '-')}"
        caption = (
            f"{label}. {what[0].upper()}{what[1:]} where a curve first reaches that much of {given}, between "
            f"rounds linearly; mean over seeds with its {data.width} interval, and how many seeds got there."
        )
        rows = [
            (Cell(c), *(_cell(data, _reached(known, c, goal, way), len(known[c]), value) for goal in goals))
            for c in known
        ]
        less = f"The same less {data.baseline}'s, over the seeds of which both got there."
        changes = [
            (Cell(c), *(_change(_paired(data, known, c, goal, way), value) for goal in goals))
            for c in known
            if c != data.baseline
        ]
        found += [Table(key, caption, header, tuple(rows))] if goals else []
        found += [Table(f"{key}-less", less, header, tuple(changes))] if goals and data.baseline else []
    return found


def _reached(known: dict[str, Curve], curve: str, goal: float, way: str) -> dict[int, float]:
    """By seed, where the curve got there."""
    turned = {
        seed: points if way == "at_x" else [(y, x) for x, y in points]
        for seed, points in known.get(curve, {}).items()
    }
    found = {seed: first_at(points, goal) for seed, points in turned.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _paired(data: Results, known: dict[str, Curve], curve: str, goal: float, way: str) -> Estimate | None:
    own, theirs = (_reached(known, name, goal, way) for name in (curve, data.against))
    return paired(own, theirs, data.confidence)


def _told(data: Results, known: dict[str, Curve], curve: str, goal: float, way: str) -> dict[str, Any]:
    """Over the seeds that got there; ``change`` against the baseline, over those that both have."""
    said = _json(data.over_seeds(_reached(known, curve, goal, way)), "seeds") | {"of": len(known[curve])}
    if curve != data.against:
        said["change"] = _json(_paired(data, known, curve, goal, way), "pairs")
    return said


def _json(found: Estimate | None, count: str) -> dict[str, Any]:
    if found is None:
        return {"value": None, "low": None, "high": None, count: 0}
    return {**asdict(found.interval), "p": found.p, count: found.seeds}


def _cell(data: Results, values: dict[int, float], of: int, show: Callable[[float], str]) -> Cell:
    found = data.over_seeds(values)
    return Cell.of(found, show, f"{found.seeds if found else 0} of {of}")


def _change(found: Estimate | None, show: Callable[[float], str]) -> Cell:
    notes = [count(found.seeds, "seed")] if found else []
    return Cell.of(found, functools.partial(signed, show=show), *notes)
