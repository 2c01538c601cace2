"""The report's charts of the replay buffer: its size by age, each age's drift, what is replayed."""

from __future__ import annotations

import functools
from typing import Any

from tasks.report.charts import HALF, HERO, Figure, pictures, series, stacked
from tasks.report.format import count, number
from tasks.report.run.data import RunData, told_by
from tasks.report.run.figures import COLOURS, DASHED, DOTTED, SHARES, SOLID, Look, lines_figure

AGES = ((0, 0, "this round"), (1, 2, "1–2 rounds"), (3, 5, "3–5 rounds"), (6, 1 << 30, "6 and more"))
"""Classes of age: youngest, oldest, name."""
SHOWN = {1: SOLID, 2: DASHED, 4: DOTTED, 8: DASHED}
"""Ages whose drift has a line, and which."""


def replay_figures(data: RunData) -> list[Figure | None]:
    """Nothing of a run whose buffer was always empty."""
    return [_buffer(data), _drift(data), _replayed(data)]


def _buffer(data: RunData) -> Figure | None:
    rows = []
    sizes = []
    for round, said in told_by(data, "replay"):
        sizes.append(said["rows"])
        for order, (least, most, name) in enumerate(AGES):
            kept = [c["kept"] for c in said["cohorts"].values() if least <= c["age"] <= most]
            rows.append({"round": str(round), "stage": name, "amount": sum(kept), "order": order})
    if not any(sizes):
        return None
    title = "Replay buffer by age"
    says = f"Responses in the buffer after each round: {count(sizes[-1], 'response')} at the end."
    names = [name for _, _, name in AGES]
    draw = functools.partial(stacked, rows, names, column="amount", title="responses")
    return Figure(
        key="buffer",
        title=title,
        says=says,
        pictures=pictures(draw, HERO, "buffer", title, says),
        legend=tuple((f"var(--stage-{i})", name, "dot") for i, name in enumerate(names)),
        header=("round", "age", "responses"),
        rows=tuple((row["round"], row["stage"], str(row["amount"])) for row in rows if row["amount"]),
    )


def _drift(data: RunData) -> Figure | None:
    rows = [
        {"round": round, **{f"age {age}": said.get("drift_by_age", {}).get(str(age)) for age in SHOWN}}
        for round, said in told_by(data, "update")
    ]
    drawn = [
        series(f"age {age}", colour, rows, f"age {age}", dash=dash)
        for (age, dash), colour in zip(SHOWN.items(), COLOURS, strict=True)
    ]
    says = "Jensen-Shannon divergence of the policy from replayed responses, nats per token, by their age."
    look = Look("~g", number, sizes=HALF)
    return lines_figure("drift", "Drift by age", says, drawn, look, rows, [f"age {age}" for age in SHOWN])


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
