"""The answers that a comparison shows: problems, each with what every method made of it, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from algorithms.correct import CORRECT
from tasks.artefacts.tables import plain_columns, read_table
from tasks.report.comparison.stats import Results
from tasks.report.run.answers import Problem, column_of, gold_reader, rows_by_problem, visible, within_room

STORIES = {"split": "methods disagree", "missed": "all wrong", "solved": "all right"}
BASE = "base model"

Rows = list[dict[str, Any]]


def shown_problems(data: Results) -> list[Problem]:
    """As many problems as ``evaluate.transcripts`` says, over all seeds and outcomes, in a fixed order."""
    total = data.runs[0].params.evaluate.transcripts
    by_seed = [_of_seed(data, seed) for seed in sorted(data.problems)]
    return list(within_room(_spread(by_seed, total)))


def _of_seed(data: Results, seed: int) -> list[Problem]:
    runs = [run for run in data.runs if run.seed == seed and run.final is not None]
    bases = [run.base for run in runs if run.base is not None]
    asked = [(BASE, artefact) for artefact in bases[:1]]
    asked += [(run.arm, run.last) for run in runs if run.last is not None]
    files = {name: artefact.file("answers.parquet") for name, artefact in asked}
    given = {name: rows_by_problem(read_table(file, plain_columns(file))) for name, file in files.items()}
    found, show = [], gold_reader(data.runs[0].params)
    for problem, (facts, *_) in next(iter(given.values()), {}).items():
        own = {name: rows.get(problem, []) for name, rows in given.items()}
        found.append(
            Problem(
                key=f"s{seed}-{problem}",
                seed=seed,
                question=visible(facts["question"]),
                gold=visible(show(facts["answer"])),
                level=facts["level"],
                story=_story([rows for name, rows in own.items() if name != BASE]),
                columns=tuple(column_of(name, name, rows) for name, rows in own.items()),
            )
        )
    return found


def _story(rows: Sequence[Rows]) -> str:
    """Whether the methods' greedy answers are right."""
    right = [any(row["greedy"] and (row["reward"] or 0) >= CORRECT for row in each) for each in rows]
    return "solved" if all(right) else "split" if any(right) else "missed"


def _spread(by_seed: Sequence[Sequence[Problem]], total: int) -> list[Problem]:
    """Problems of all seeds in turn: half of them, where there are so many, split the methods."""
    mixed = [problem for turn in zip_longest(*by_seed) for problem in turn if problem is not None]
    queues = {story: [problem for problem in mixed if problem.story == story] for story in STORIES}
    chosen: list[Problem] = []
    while any(queues.values()):
        chosen += [queues[s].pop(0) for s in ("split", "missed", "split", "solved") if queues[s]]
    return chosen[:total]
