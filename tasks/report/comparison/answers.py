"""The answers that a comparison shows: problems, each with what every method made of it, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from algorithms.correct import CORRECT
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table
from tasks.report.comparison.stats import Results
from tasks.report.run.answers import ROOM, Column, column_of, gold_reader, rows_by_problem, visible
from tasks.report.run.data import Evaluation

STORIES = {"split": "methods disagree", "missed": "all wrong", "solved": "all right"}
BASE = "base model"

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Problem:
    """One problem of the browser."""

    key: str
    """Unique on the page."""
    seed: int
    question: str
    gold: str
    level: int
    story: str
    columns: tuple[Column, ...]


def shown_problems(data: Results) -> list[Problem]:
    """As many problems as ``evaluate.transcripts`` says, over all seeds and outcomes, in a fixed order."""
    total = data.runs[0].params.evaluate.transcripts
    by_seed = [_of_seed(data, seed) for seed in sorted(data.problems)]
    shown: list[Problem] = []
    used = 0
    for problem in _spread(by_seed, total):
        used += sum(len(answer.text) for column in problem.columns for answer in column.answers)
        if used > ROOM and shown:
            break
        shown.append(problem)
    return shown


def _of_seed(data: Results, seed: int) -> list[Problem]:
    runs = [run for run in data.runs if run.seed == seed and run.final is not None]
    bases = [run.base for run in runs if run.base is not None]
    asked = [(BASE, artefact) for artefact in bases[:1]]
    asked += [(run.arm, run.last) for run in runs if run.last is not None]
    given = {name: _answers(artefact) for name, artefact in asked}
    found, show = [], gold_reader(data.runs[0].params)
    for problem in next(iter(given.values()), {}):
        facts = given[asked[0][0]][problem][0]
        own = {name: rows.get(problem, []) for name, rows in given.items()}
        found.append(
            Problem(
                key=f"s{seed}-{problem}",
                seed=seed,
                question=visible(facts["question"]),
                gold=visible(show(facts["answer"])),
                level=facts["level"],
                story=_story([rows for name, rows in own.items() if name != BASE]),
                columns=tuple(_column(name, own[name]) for name in own),
            )
        )
    return found


def _answers(artefact: Artefact) -> Mapping[str, Rows]:
    table = read_table(artefact.file("answers.parquet"))
    return rows_by_problem(Evaluation(artefact.manifest.round, {}, table))


def _column(name: str, rows: Rows) -> Column:
    return replace(column_of(Evaluation(0, {}, None), rows), policy=name, name=name)


def _story(rows: Sequence[Rows]) -> str:
    """Whether the methods' greedy answers are right."""
    right = [any(row["greedy"] and (row["reward"] or 0) >= CORRECT for row in each) for each in rows]
    return "solved" if all(right) else "split" if any(right) else "missed"


def _spread(by_seed: Sequence[Sequence[Problem]], total: int) -> list[Problem]:
    """Problems of all seeds in turn: half of them, where there are so many, split the methods."""
    queues: dict[str, list[Problem]] = {story: [] for story in STORIES}
    longest = max((len(problems) for problems in by_seed), default=0)
    for place in range(longest):
        for problems in by_seed:
            if place < len(problems):
                queues[problems[place].story].append(problems[place])
    turns = ("split", "missed", "split", "solved")
    chosen: list[Problem] = []
    while len(chosen) < total and any(queues.values()):
        for story in turns:
            if queues[story] and len(chosen) < total:
                chosen.append(queues[story].pop(0))
    return chosen
