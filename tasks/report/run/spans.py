"""The parts of responses that the method's terms singled out, as the report shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.report.run.answers import LONGEST, visible
from tasks.report.run.data import RunData, read_rows
from tasks.update.selected_spans import FILE

ROUNDS = 2
"""The last rounds with spans, whose spans are shown."""
RULES = {
    "max_entropy": "highest entropy",
    "min_entropy": "lowest entropy",
    "random_clip": "drawn at random",
    "whole": "whole answer",
    "whole_high": "whole answer of the highest entropy",
    "whole_low": "whole answer of the lowest entropy",
}


@dataclass(frozen=True)
class ShownSpan:
    """One response: ``before``, ``step`` and ``after`` were learnt from, ``beyond`` is the rest."""

    round: int
    problem_id: str
    question: str
    facts: str
    before: str
    step: str
    after: str
    beyond: str


def shown_spans(data: RunData) -> list[ShownSpan]:
    """Spans of the last rounds, the youngest first, at most as many as ``evaluate.transcripts`` says."""
    made = sorted((d for d in data.done if d.step.stage == "update"), key=lambda d: -d.step.round)
    found = [(d.step.round, d.artefact) for d in made if d.artefact and FILE in d.artefact.manifest.files]
    told = found[:ROUNDS]
    questions = _questions(data) if told else {}
    most = -(-data.params.evaluate.transcripts // max(len(told), 1))
    shown = []
    for round, artefact in told:
        rows = read_rows(artefact, FILE).to_pylist()
        spread = range(0, len(rows), -(-len(rows) // most))
        shown += [_shown(round, rows[i], questions) for i in spread]
    return shown


def _questions(data: RunData) -> dict[str, str]:
    """The training questions by problem, where the run's problems are at hand."""
    for each in data.done:
        artefact = each.artefact
        if each.step.stage == "problems" and artefact and "train.parquet" in artefact.manifest.files:
            table = read_rows(artefact, "train.parquet")
            return dict(zip(table["problem_id"].to_pylist(), table["question"].to_pylist(), strict=True))
    return {}


def _shown(round: int, row: dict[str, Any], questions: dict[str, str]) -> ShownSpan:
    tokens = row["stop"] - row["start"]
    facts = (
        f"round {round}, answer {row['sample'] + 1} of its group: {tokens} of {row['tokens']} tokens, "
        f"{RULES.get(row['selection'], row['selection'])}, {row['entropy']:.2f} nats per token in the step"
    )
    parts = {name: visible(row[name])[-LONGEST:] for name in ("before", "step")}
    rest = {name: visible(row[name])[:LONGEST] for name in ("after", "beyond")}
    question = visible(questions.get(row["problem_id"], row["problem_id"]))
    return ShownSpan(round, row["problem_id"], question, facts, **parts, **rest)
