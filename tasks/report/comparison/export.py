"""A comparison as one page of Markdown, with its tables and charts: for a README or a pull request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from params.comparison import Comparison
from tasks.report.comparison.figures import Panel
from tasks.report.comparison.tables import Table
from tasks.report.format import count


def exported(
    comparison: Comparison,
    facts: dict[str, Any],
    said: dict[str, Any],
    tables: Sequence[Table],
    drawn: Sequence[Panel],
) -> str:
    """The text of ``summary.md``; ``said`` is what ``summary.json`` says."""
    arms, seeds = count(len(comparison.arms), "arm"), count(comparison.seeds, "seed")
    parts = [
        f"# {comparison.title}\n\n{comparison.question}\n",
        f"**{said['verdict']}** {said['evidence']}\n",
        f"`{facts['command']}`: {arms}, {seeds}, {said['budget']}.\n",
        *(f"- {line}\n" for line in said["cautions"]),
        *(table.markdown for table in tables),
        *(f"![{panel.title}]({panel.key}.svg)\n" for panel in drawn),
    ]
    return "\n".join(parts)
