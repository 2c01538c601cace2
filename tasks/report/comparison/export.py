"""A comparison as one page of Markdown, with its tables and charts: for a README or a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from params.comparison import Comparison
from tasks.report.comparison.figures import Panel
from tasks.report.comparison.tables import Table
from tasks.report.format import count

HEADINGS = {
    "results": "After the last round",
    "effects": "Against the baseline",
    "best": "Best over the rounds",
    "arms": "What tells them apart",
    "parameters": "Parameters",
    "cost": "Cost",
}
"""Tables in the order in which the page has them."""


def exported(
    comparison: Comparison,
    facts: Mapping[str, Any],
    said: Mapping[str, Any],
    tables: Mapping[str, Table],
    frontiers: Mapping[str, Sequence[Table]],
    drawn: Iterable[Panel],
) -> str:
    """The text of ``summary.md``; ``said`` is what ``summary.json`` says."""
    arms, seeds = count(len(comparison.arms), "arm"), count(comparison.seeds, "seed")
    parts = [
        f"# {comparison.title}\n\n{comparison.question}\n",
        f"**{said['verdict']}** {said['evidence']}\n",
        f"`{facts['command']}`: {arms}, {seeds}, {said['budget']}.\n",
        "".join(f"- {line}\n" for line in said["cautions"]),
    ]
    parts += [f"## {name}\n\n{tables[key].markdown}" for key, name in HEADINGS.items() if key in tables]
    for name, readings in ((name, readings) for name, readings in frontiers.items() if readings):
        heading = comparison.frontiers[name].label or name
        parts += [f"## {heading}\n", *(table.markdown for table in readings)]
    parts += ["## Charts\n", *(f"![{panel.title}]({panel.key}.svg)\n" for panel in drawn)]
    return "\n".join(part for part in parts if part)
