"""Right answers, looked at before a run: one that a judge does not match with itself matches nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from algorithms.correct import CORRECT
from params.base import Choice
from params.reward import several
from params.task import Task
from tasks.rewards.base import Answer, Group
from tasks.rewards.contract import chosen_reward, find_reward
from tasks.rewards.judge import Judge
from tasks.rewards.problems import groups_of

SHOWN = 60
WORKERS = 2


def tried(choice: Choice) -> bool:
    """Whether a reward is tried on one answer before a run, to see that it gives a reward at all: one of the
    user's own, and one whose verdicts are dear."""
    return ":" in choice.name or find_reward(choice.name, "task.reward").content_keys is not None


def tried_alone(choice: Choice) -> bool:
    """Whether it is, and needs no problem of the run for that."""
    reward, config = chosen_reward(choice, "task.reward")
    return tried(choice) and not (reward.reads_columns and reward.reads_columns(config))


def bad_golds(task: Task, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The right answers of these problems that the rewards cannot use, each with the reason.

    A judge without ``self_answers`` may mean anything by a right answer. Raises ``BadInput`` for columns that
    a reward needs and the problems do not have.
    """
    bad: dict[str, str] = {}
    groups = groups_of(rows, task)
    for choice in several(task.reward):
        bad |= {gold: why for gold, why in _bad(choice, groups).items() if gold not in bad}
    return bad


def _bad(choice: Choice, groups: Sequence[Group]) -> dict[str, str]:
    reward = find_reward(choice.name, "task.reward")
    config: Any = choice.resolve(reward.Config, "task.reward")
    of = {group.gold: group for group in reversed(groups)}
    forms: dict[str, tuple[str, ...]] = {}
    if tried(choice):
        forms = {group.gold: (group.gold,) for group in groups[:1]}
    least, bad = -math.inf, {}
    if reward.self_answers:
        least = CORRECT
        for gold in of:
            try:
                forms[gold] = reward.self_answers(gold, config)
            except ValueError as error:
                bad[gold] = f"the right answer '{gold[:SHOWN]}' {error}"
    asked = [
        Group(**{**vars(of[gold]), "answers": (Answer(answer),)})
        for gold, answers in forms.items()
        for answer in answers
    ]
    with closing(Judge(Choice(name=choice.name, **(choice.model_extra or {})), WORKERS)) as judge:
        verdicts = iter(judge.judge_groups(asked))
    for gold, answers in forms.items():
        found = [next(verdicts)[0] for _ in answers]
        applying = [verdict for verdict in found if verdict.error != "no reward applies"]
        if applying and not any(v.reward is not None and v.reward >= least for v in applying):
            reason = f": {applying[0].error}" if applying[0].error else ""
            bad[gold] = f"the judge {choice.name} cannot use the right answer '{gold[:SHOWN]}'{reason}"
    return bad
