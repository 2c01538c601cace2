"""A second judge's verdicts, as the report shows them: agreement by round, and answers it disagrees on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from params.reward import several
from tasks.report.charts import Figure, series
from tasks.report.run.answers import LONGEST, visible
from tasks.report.run.data import RunData, read_json, told_by
from tasks.report.run.figures import COLOURS, SHARES, lines_figure

STAGE = "audit"
FILE = "disagreements.json"
LINES = {
    "both agree": "agreement",
    "right by the first alone": "first_only",
    "right by the second alone": "second_only",
}


@dataclass(frozen=True)
class Disagreement:
    """An answer that one judge alone calls right."""

    round: int
    question: str
    gold: str
    response: str
    facts: str


def audit_figure(data: RunData) -> Figure | None:
    """The share of answers on which both judges agree, by round; None where there is no second judge."""
    rows = [
        {"round": round, **{key: said[key] for key in LINES.values()}} for round, said in told_by(data, STAGE)
    ]
    if not rows or data.params.audit is None:
        return None
    drawn = [
        series(label, colour, rows, key) for colour, (label, key) in zip(COLOURS, LINES.items(), strict=False)
    ]
    known = [line for line in drawn if line.points]
    if not known:
        return None
    names = " and ".join(each.called for each in several(data.params.audit.reward))
    first, last = drawn[0].points[0].y, drawn[0].points[-1].y
    says = f"{names} beside the run's reward: agreement {SHARES.show(first)} → {SHARES.show(last)}."
    return lines_figure("audit", "Second judge", says, known, replace(SHARES), rows, list(LINES.values()))


def disagreements(data: RunData) -> list[Disagreement]:
    """Answers of the last rounds, the youngest first, at most as many as ``evaluate.transcripts`` says."""
    made = sorted((d for d in data.done if d.step.stage == STAGE and d.artefact), key=lambda d: -d.step.round)
    found = [
        _shown(each.step.round, row)
        for each in made
        if each.artefact and FILE in each.artefact.manifest.files
        for row in read_json(each.artefact, FILE)
    ]
    return found[: data.params.evaluate.transcripts]


def _shown(round: int, row: dict[str, Any]) -> Disagreement:
    facts = f"round {round}: the run's reward {row['first']:g}, the second judge's {row['second']:g}"
    question, gold, response = (visible(row[name])[:LONGEST] for name in ("question", "gold", "response"))
    return Disagreement(round, question, gold, response, facts)
