"""The settings that a run is simulated with, side by side, and which of them is best by our rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

LAGS = (0, 1, 2)
SERVERS = (1, 2, 4, 8)
SHARDS = (1, 2, 4)
NEAR = 0.05
"""Settings whose rounds an hour are so near the best's count as equally fast."""
Choice = dict[str, int]
"""``lag``, ``servers``, ``shards``."""


def choices(engines: int | None) -> Iterator[Choice]:
    """Every lag with every number of servers; or with the ``engines`` that there are, and with those in
    shards."""
    for lag in LAGS:
        for count in SERVERS if engines is None else (engines,):
            yield {"lag": lag, "servers": count, "shards": 1}
        if engines is not None:
            yield from ({"lag": lag, "servers": 1, "shards": shards} for shards in SHARDS[1:])


def best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Ours: of those within 5 % of the most rounds an hour, the one whose answers are the fewest rounds
    behind; of equal ones the one with the fewest engines, then the fastest."""
    most = max(row["rounds_per_hour"] for row in rows)
    near = [row for row in rows if row["rounds_per_hour"] >= (1 - NEAR) * most]
    return min(
        near, key=lambda row: (row["rounds_behind"], row["servers"] * row["shards"], -row["rounds_per_hour"])
    )


def sentence(rows: Sequence[dict[str, Any]]) -> str:
    """Which is best, and why."""
    chosen, fastest = best(rows), max(rows, key=lambda row: row["rounds_per_hour"])
    near = sum(row["rounds_per_hour"] >= (1 - NEAR) * fastest["rounds_per_hour"] for row in rows)
    why = "the fastest, and none within 5 % of it has fewer stale rounds"
    if chosen is not fastest:
        share = chosen["rounds_per_hour"] / fastest["rounds_per_hour"]
        why = (
            f"{share:.0%} of the fastest's ({named(fastest)}), and of the {near} within 5 % of that the one "
            "with the fewest stale rounds, then the fewest engines"
        )
    return f"Best by our rule: {named(chosen)}, with {chosen['rounds_per_hour']:,.1f} rounds an hour: {why}."


def named(row: dict[str, Any]) -> str:
    """``lag 1, 2 servers``."""
    parts = [f"lag {row['lag']}"]
    parts += [f"{row['servers']} servers"] if row["servers"] > 1 else []
    parts += [f"{row['shards']} shards"] if row["shards"] > 1 else []
    return ", ".join(parts)
