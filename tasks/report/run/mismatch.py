"""The report's charts of the mismatch's tails: by round, and by the age of the policy that sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tasks.report.charts import THIRD, Figure, series
from tasks.report.run.data import RunData, metrics_of, told_by
from tasks.report.run.figures import (
    COLOURS,
    DASHED,
    DOTTED,
    LINES,
    NUMBERS,
    SHARES,
    SOLID,
    lines_figure,
)

DASHES = (SOLID, DASHED, DOTTED, DASHED)
SMALL = replace(NUMBERS, sizes=THIRD)
RARE = replace(SHARES, axis=".1%", domain=None, sizes=THIRD)


def mismatch_figures(data: RunData) -> list[Figure | None]:
    """None where an update computed nothing, for ages where every rollout was of the latest policy, and for
    the correction where there is none."""
    told = metrics_of(data, "update")
    differs = "Difference in log-probability between engine and trainer, nats per token: 99 and 99.9 of 100"
    return [
        _lines(
            told,
            "mismatch_tails",
            "Mismatch, tails",
            f"{differs} tokens have less.",
            {"mismatch_p99": "99 %", "mismatch_p999": "99.9 %"},
            SMALL,
        ),
        _lines(
            told,
            "mismatch_shares",
            "Mismatch, far tokens",
            "Shares of tokens that the trainer holds more than twice, and less than half, as likely.",
            {"mismatch_above": "more than twice", "mismatch_below": "less than half"},
            RARE,
        ),
        _by_age(data),
        _lines(
            told,
            "correction",
            "Correction",
            "Share of the tokens that method.correction truncates or masks.",
            {"correction_cut": "truncated or masked"},
            RARE,
        ),
    ]


def _lines(
    told: Sequence[tuple[int, dict[str, float]]],
    key: str,
    title: str,
    says: str,
    names: dict[str, str],
    look: Any,
) -> Figure | None:
    rows = [{"round": n, **{label: said.get(name) for name, label in names.items()}} for n, said in told]
    drawn = [
        series(label, colour, rows, label, dash=dash)
        for label, colour, dash in zip(names.values(), COLOURS, DASHES, strict=False)
    ]
    return lines_figure(key, title, says, drawn, look, rows, list(names.values()))


def _by_age(data: RunData) -> Figure | None:
    told = [(n, said.get("mismatch_p99_by_age", {})) for n, said in told_by(data, "update")]
    ages = sorted({int(age) for _, by_age in told for age in by_age})
    if not any(ages):
        return None
    last = len(ages) - 1
    shown = sorted({ages[last * place // (LINES - 1)] for place in range(LINES)})
    rows = [{"round": n, **{f"age {age}": by_age.get(str(age)) for age in ages}} for n, by_age in told]
    drawn = [
        series(f"age {age}", colour, rows, f"age {age}", dash=dash)
        for age, colour, dash in zip(shown, COLOURS, DASHES, strict=False)
    ]
    says = "99 of 100 tokens differ by less, nats, by the rounds that the policy that sampled them is behind."
    table = [f"age {age}" for age in ages]
    return lines_figure("mismatch_ages", "Mismatch, tail by age", says, drawn, SMALL, rows, table)
