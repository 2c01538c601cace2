"""The report's account of clips: groups that agree, lengths, and the clips themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tasks.report.charts import THIRD, Figure, Point, Series
from tasks.report.run.answers import LONGEST, visible
from tasks.report.run.data import RunData, read_json, read_rows
from tasks.report.run.figures import COLOURS, DASHED, NUMBERS, SHARES, SOLID, lines_figure
from tasks.update.selected_spans import FILE

ROUNDS = 2
"""The last rounds with clips, whose clips are shown."""
RULES = {
    "max_entropy": "highest entropy",
    "min_entropy": "lowest entropy",
    "random_clip": "drawn at random",
    "whole": "whole answer",
}


@dataclass(frozen=True)
class ShownClip:
    """One response: ``before``, ``step`` and ``after`` were learnt from, ``beyond`` is the rest."""

    round: int
    problem_id: str
    question: str
    facts: str
    before: str
    step: str
    after: str
    beyond: str


def echo_figures(data: RunData) -> list[Figure | None]:
    """Charts of the updates' groups and clips; nothing of a run whose updates do not tell."""
    rows = [{"round": each.step.round, **read_json(each.artefact, "metrics.json")} for each in _updates(data)]
    return [_agreeing(rows), _lengths(rows)]


def shown_clips(data: RunData) -> list[ShownClip]:
    """Clips of the last rounds, the youngest first, at most as many as ``evaluate.transcripts`` says."""
    told = [each for each in reversed(_updates(data)) if FILE in each.artefact.manifest.files][:ROUNDS]
    questions = _questions(data) if told else {}
    most = -(-data.params.evaluate.transcripts // max(len(told), 1))
    found = []
    for each in told:
        rows = read_rows(each.artefact, FILE).to_pylist()
        spread = range(0, len(rows), -(-len(rows) // most))
        found += [_shown(each.step.round, rows[i], questions) for i in spread]
    return found


def _updates(data: RunData) -> list[Any]:
    """The updates at hand, by round."""
    mine = [d for d in data.done if d.step.stage == "update" and d.artefact is not None]
    told = [d for d in mine if d.artefact is not None and "metrics.json" in d.artefact.manifest.files]
    return sorted(told, key=lambda d: d.step.round)


def _agreeing(rows: list[dict[str, Any]]) -> Figure | None:
    names = {"all_right_groups": ("all right", SOLID), "all_wrong_groups": ("all wrong", DASHED)}
    drawn = [
        Series(name, COLOURS[place], _points(rows, key), dash=dash)
        for place, (key, (name, dash)) in enumerate(names.items())
    ]
    table = [{"round": row["round"], **{n: row.get(k) for k, (n, _) in names.items()}} for row in rows]
    says = "Shares of the groups whose answers were all right, and all wrong: nothing for the objective."
    look = replace(SHARES, sizes=THIRD)
    columns = [name for name, _ in names.values()]
    return lines_figure("agreeing", "Groups that agree", says, drawn, look, table, columns)


def _lengths(rows: list[dict[str, Any]]) -> Figure | None:
    keys = sorted({key for row in rows for key in row if key.endswith(".clip_length")})
    drawn = [Series(key.split(".")[0], COLOURS[i % 4], _points(rows, key)) for i, key in enumerate(keys)]
    table = [{"round": row["round"], **{k: row.get(k) for k in keys}} for row in rows]
    says = "Mean tokens of the answers' beginnings that were fed back."
    return lines_figure("clips", "Clip length", says, drawn, replace(NUMBERS, sizes=THIRD), table, keys)


def _points(rows: list[dict[str, Any]], key: str) -> tuple[Point, ...]:
    return tuple(Point(row["round"], row[key]) for row in rows if row.get(key) is not None)


def _questions(data: RunData) -> dict[str, str]:
    """The training questions by problem, where the run's problems are at hand."""
    for each in data.done:
        if each.step.stage == "problems" and each.artefact is not None:
            if "train.parquet" not in each.artefact.manifest.files:
                continue
            table = read_rows(each.artefact, "train.parquet")
            return dict(zip(table["problem_id"].to_pylist(), table["question"].to_pylist(), strict=True))
    return {}


def _shown(round: int, row: dict[str, Any], questions: dict[str, str]) -> ShownClip:
    tokens = row["stop"] - row["start"]
    facts = (
        f"round {round}, answer {row['sample'] + 1} of its group: {tokens} of {row['tokens']} tokens, "
        f"{RULES.get(row['selection'], row['selection'])}, {row['entropy']:.2f} nats a token in the step"
    )
    parts = {name: visible(row[name])[-LONGEST:] for name in ("before", "step")}
    rest = {name: visible(row[name])[:LONGEST] for name in ("after", "beyond")}
    question = visible(questions.get(row["problem_id"], row["problem_id"]))
    return ShownClip(round, row["problem_id"], question, facts, **parts, **rest)
