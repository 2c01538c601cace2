"""The report's charts of the replay buffer: what enters, its size by age, drift by age, what is replayed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from tasks.report.charts import HALF, HERO, Figure, Sizes, pictures, series, stacked
from tasks.report.format import count, number
from tasks.report.run.data import RunData, told_by
from tasks.report.run.figures import COLOURS, DASHED, DOTTED, SHARES, SOLID, Look, lines_figure

AGES = ((0, 0, "this round"), (1, 2, "1–2 rounds"), (3, 5, "3–5 rounds"), (6, 1 << 30, "6 and more"))
"""Classes of age: youngest, oldest, name."""
BELOW_ALL = 4
"""Strata that are told apart: all right, one less, two less, three less; the rest together."""
DASHES = (SOLID, DASHED, DOTTED, DASHED)
SHOWN = (1, 2, 4, 8)
"""Ages whose drift has a line."""
FELT = (0, 1, 4, 8)
"""Ages whose penalty has one."""


def replay_figures(data: RunData) -> list[Figure | None]:
    """Nothing of a run whose buffer was always empty."""
    drift = "Jensen-Shannon divergence of the policy from replayed responses, nats per token, by their age."
    penalty = (
        "What the method's term minimises on replayed responses, nats per token, by their age in rounds."
    )
    return [
        _buffer(data),
        _entered(data),
        _fill(data),
        _by_age(data, "drift", "Drift by age", drift, SHOWN),
        _by_age(data, "penalty", "Penalty by age", penalty, FELT),
        _replayed(data),
        _drawn(data),
        _same_round(data),
    ]


def _stack(
    key: str, title: str, says: str, rows: list[dict[str, Any]], names: Sequence[str], sizes: Sizes
) -> Figure:
    """Columns of responses by round; ``rows`` have ``round``, ``stage`` (a class) and ``amount``."""
    for row in rows:
        row["order"] = names.index(row["stage"])
    draw = functools.partial(stacked, rows, names, column="amount", title="responses")
    return Figure(
        key=key,
        title=title,
        says=says,
        pictures=pictures(draw, sizes, key, title, says),
        legend=tuple((f"var(--stage-{i})", name, "dot") for i, name in enumerate(names)),
        header=("round", "class", "responses"),
        rows=tuple((row["round"], row["stage"], str(row["amount"])) for row in rows if row["amount"]),
    )


def _of_ages(round: int, ages: dict[int, int]) -> list[dict[str, Any]]:
    """Counts by age in the classes of ``AGES``."""
    return [
        {
            "round": str(round),
            "stage": name,
            "amount": sum(number for age, number in ages.items() if least <= age <= most),
        }
        for least, most, name in AGES
    ]


def _buffer(data: RunData) -> Figure | None:
    rows: list[dict[str, Any]] = []
    sizes = []
    for round, said in told_by(data, "replay"):
        sizes.append(said["rows"])
        rows += _of_ages(round, {c["age"]: c["kept"] for c in said["cohorts"].values()})
    if not any(sizes):
        return None
    says = f"Responses in the buffer after each round: {count(sizes[-1], 'response')} at the end."
    return _stack("buffer", "Replay buffer by age", says, rows, [name for _, _, name in AGES], HERO)


def _entered(data: RunData) -> Figure | None:
    """How sure the policy was of what it let in."""
    whole = data.params.rollout.samples_per_problem
    least = max(whole - BELOW_ALL, 0)
    names = [f"{k} of {whole} right" for k in range(whole, least, -1)] + [f"{least} or fewer"]
    rows = []
    for round, said in told_by(data, "replay"):
        strata = {int(k): number for k, number in said.get("strata", {}).items()}
        for place, name in enumerate(names[:-1]):
            rows.append({"round": str(round), "stage": name, "amount": strata.get(whole - place, 0)})
        rest = sum(number for k, number in strata.items() if k <= least)
        rows.append({"round": str(round), "stage": names[-1], "amount": rest})
    if not any(row["amount"] for row in rows):
        return None
    says = "Responses that entered the buffer, by how many of their group were right."
    return _stack("entered", "Admitted by confidence", says, rows, names, HALF)


def _fill(data: RunData) -> Figure | None:
    rows = [{"round": round, "fill": said.get("fill")} for round, said in told_by(data, "replay")]
    if not any(row["fill"] for row in rows):
        return None
    line = series("fill", COLOURS[0], rows, "fill")
    says = "Share of the round's responses that entered the buffer."
    return lines_figure("fill", "Fill rate", says, [line], SHARES, rows, ["fill"])


def _by_age(data: RunData, name: str, title: str, says: str, ages: Sequence[int]) -> Figure | None:
    columns = [f"age {age}" for age in ages]
    rows = [
        {
            "round": round,
            **{f"age {age}": said.get(f"{name}_by_age", {}).get(str(age)) for age in ages},
        }
        for round, said in told_by(data, "update")
    ]
    drawn = [
        series(column, colour, rows, column, dash=dash)
        for column, dash, colour in zip(columns, DASHES, COLOURS, strict=True)
    ]
    return lines_figure(name, title, says, drawn, Look("~g", number, sizes=HALF), rows, columns)


def _drawn(data: RunData) -> Figure | None:
    rows: list[dict[str, Any]] = []
    for round, said in told_by(data, "update"):
        rows += _of_ages(round, {int(age): n for age, n in said.get("replayed_by_age", {}).items()})
    if not any(row["amount"] for row in rows):
        return None
    says = "Responses that each update drew, by their age."
    return _stack("drawn", "Drawn by age", says, rows, [name for _, _, name in AGES], HALF)


def _same_round(data: RunData) -> Figure | None:
    rows: list[dict[str, Any]] = []
    for round, said in told_by(data, "update"):
        ages = said.get("replayed_by_age", {})
        if ages:
            rows.append({"round": round, "same": ages.get("0", 0) / sum(ages.values())})
    line = series("of this round", COLOURS[0], rows, "same")
    says = "Share of the drawn responses that this very round sampled: the first step does not feel them."
    return lines_figure("same_round", "Drawn from this round", says, [line], SHARES, rows, ["same"])


def _replayed(data: RunData) -> Figure | None:
    rows: list[dict[str, Any]] = []
    for round, said in told_by(data, "update"):
        replayed = said.get("replayed_tokens", 0)
        rows.append({"round": round, "replayed": replayed / max(said.get("tokens", 0) + replayed, 1)})
    if not any(row["replayed"] for row in rows):
        return None
    line = series("replayed", COLOURS[0], rows, "replayed")
    says = "Share of the update's response tokens that came from the buffer."
    return lines_figure("replayed", "Replayed tokens", says, [line], SHARES, rows, ["replayed"])
