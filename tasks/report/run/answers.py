"""The answers that the page shows: some problems, each with what the base and the last policy made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from algorithms.correct import CORRECT
from params.schema import Params
from tasks.artefacts.tables import TRUNCATED
from tasks.problems.contract import find_source
from tasks.report.run.data import Evaluation, RunData, accuracy_by_problem

LONGEST = 1200
"""Characters of an answer that are shown."""
ROOM = 400_000
"""Characters that all answers together may take."""
CONTROL = {i: 0x2400 + i for i in (*range(9), 11, 12, *range(13, 32))} | {127: 0x2421}
STORIES = {
    "learnt": "learnt",
    "missed": "still wrong",
    "lost": "forgotten",
    "kept": "right before and after",
    "base": "base only",
}


@dataclass(frozen=True)
class Answer:
    """One answer, or several with the same text and reward."""

    text: str
    cut: int
    """Characters left out."""
    reward: str
    outcome: str
    """``right``, ``wrong`` or ``error`` (the judge failed, or could not read the answer)."""
    error: str | None
    truncated: bool
    greedy: bool
    times: int


@dataclass(frozen=True)
class Column:
    """One policy's answers to one problem."""

    policy: str
    """``base`` or ``final``."""
    name: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Problem:
    """One problem of the browser."""

    key: str
    """Unique on the page."""
    question: str
    gold: str
    level: int
    story: str
    columns: tuple[Column, ...]
    course: tuple[tuple[int, float], ...] = ()
    """(round, share of right answers) at every evaluation of a run."""
    seed: int = 0
    """Of a comparison's run."""


def shown_problems(data: RunData) -> list[Problem]:
    """As many problems as ``evaluate.transcripts`` says, of every kind of outcome, in a fixed order."""
    evaluations = [e for e in (data.base, data.last) if e is not None]
    if not evaluations:
        return []
    rows = {e.round: rows_by_problem(e.answers) for e in evaluations}
    courses = [(e.round, accuracy_by_problem(e.answers)) for e in data.evaluations]
    first = rows[evaluations[0].round]
    stories = {p: _story([rows[e.round].get(p, []) for e in evaluations]) for p in first}
    levels = {p: r[0]["level"] for p, r in first.items()}
    show = gold_reader(data.params)
    problems = (
        Problem(
            key=p,
            question=visible(first[p][0]["question"]),
            gold=visible(show(first[p][0]["answer"])),
            level=levels[p],
            story=stories[p],
            course=tuple((r, accuracy[p]) for r, accuracy in courses if p in accuracy),
            columns=tuple(column_of(*_names(e), rows[e.round].get(p, [])) for e in evaluations),
        )
        for p in _spread(stories, levels, data.params.evaluate.transcripts)
    )
    return list(within_room(problems))


def within_room(problems: Iterable[Problem]) -> Iterator[Problem]:
    """The first one, and as many more as ``ROOM`` allows."""
    used = 0
    for place, problem in enumerate(problems):
        used += sum(len(answer.text) for column in problem.columns for answer in column.answers)
        if place and used > ROOM:
            return
        yield problem


def visible(text: str) -> str:
    """Control characters as the pictures that Unicode has for them; HTML may hold none."""
    return text.translate(CONTROL)


def gold_reader(params: Params) -> Callable[[str], str]:
    """How people read a right answer: as the source of the problems says, or as it is."""
    source = find_source(params.task.problems.name, "task.problems.name")
    return source.shown_answer or str


def rows_by_problem(answers: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """The answers to each problem, the greedy one first."""
    plain = [column.name for column in answers.schema if not pa.types.is_list(column.type)]
    found: dict[str, list[dict[str, Any]]] = {}
    for row in answers.select(plain).to_pylist():
        found.setdefault(row["problem_id"], []).append(row)
    return {problem: sorted(rows, key=lambda row: not row["greedy"]) for problem, rows in found.items()}


def _story(rows: list[list[dict[str, Any]]]) -> str:
    """What became of the problem's greedy answer."""
    if len(rows) < 2:
        return "base"
    before, after = (any(r["greedy"] and (r["reward"] or 0) >= CORRECT for r in each) for each in rows)
    return {(False, True): "learnt", (False, False): "missed", (True, False): "lost", (True, True): "kept"}[
        before, after
    ]


def _spread(stories: dict[str, str], levels: dict[str, int], total: int) -> list[str]:
    """At most ``total`` problems: a few of each story at least, the rest in proportion, well mixed."""
    kinds = {
        story: sorted((p for p, s in stories.items() if s == story), key=lambda p: (levels[p], p))
        for story in STORIES
    }
    share = {s: min(len(p), max(3, round(total * len(p) / max(len(stories), 1)))) for s, p in kinds.items()}
    while sum(share.values()) > total:
        share[max(share, key=lambda s: share[s])] -= 1
    chosen = [
        (position / share[story], problems[position * len(problems) // share[story]])
        for story, problems in kinds.items()
        for position in range(share[story])
    ]
    return [problem for _, problem in sorted(chosen, key=lambda pair: pair[0])]


def column_of(policy: str, name: str, rows: Iterable[dict[str, Any]]) -> Column:
    """These answers to one problem, equal ones counted once."""
    grouped = Counter(
        (
            *(row["greedy"], row["response"], row["reward"], row["reward_error"]),
            row["finish_reason"] in TRUNCATED,
            tuple(row.get("rewards") or ()),
        )
        for row in rows
    )
    return Column(policy, name, tuple(_answer(times, *key) for key, times in grouped.items()))


def _names(evaluation: Evaluation) -> tuple[str, str]:
    return ("final", f"Round {evaluation.round}") if evaluation.round else ("base", "Base model")


def _answer(
    times: int,
    greedy: bool,
    text: str,
    reward: float | None,
    error: str | None,
    truncated: bool,
    parts: tuple[tuple[str, float | None], ...],
) -> Answer:
    """``parts``: what each of several rewards said, by name."""
    each = ", ".join(f"{name} {'none' if value is None else f'{value:g}'}" for name, value in parts)
    outcome = "error" if reward is None or error else "right" if reward >= CORRECT else "wrong"
    return Answer(
        text=visible(text[:LONGEST]).rstrip(),
        cut=max(0, len(text) - LONGEST),
        reward=("no reward" if reward is None else f"{reward:g}") + (f" ({each})" if each else ""),
        outcome=outcome,
        error=visible(error) if error else None,
        truncated=truncated,
        greedy=greedy,
        times=times,
    )
