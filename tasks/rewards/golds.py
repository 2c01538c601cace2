"""Right answers, looked at before a run: one that a judge does not match with itself matches nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from algorithms.correct import CORRECT
from params.base import Choice
from tasks.rewards.contract import find_reward
from tasks.rewards.judge import Judge

SHOWN = 60
WORKERS = 2


def bad_golds(choice: Choice, golds: Iterable[str]) -> dict[str, str]:
    """The right answers that the judge cannot use, each with the reason.

    A judge without ``self_answers`` may mean anything by a right answer; one of the user's own is called
    once, to see that it gives a reward at all.
    """
    reward = find_reward(choice.name, "task.reward")
    config: Any = choice.resolve(reward.Config, "task.reward")
    distinct = list(dict.fromkeys(golds))
    forms: dict[str, tuple[str, ...]] = {gold: (gold,) for gold in distinct[:1]} if ":" in choice.name else {}
    least, bad = -math.inf, {}
    if reward.self_answers:
        least = CORRECT
        for gold in distinct:
            try:
                forms[gold] = reward.self_answers(gold, config)
            except ValueError as error:
                bad[gold] = f"the right answer '{gold[:SHOWN]}' {error}"
    pairs = [(gold, answer) for gold, answers in forms.items() for answer in answers]
    with closing(Judge(choice, WORKERS)) as judge:
        verdicts = dict(zip(pairs, judge.judge(pairs), strict=True))
    for gold, answers in forms.items():
        found = [verdicts[gold, answer] for answer in answers]
        if found and not any(v.reward is not None and v.reward >= least for v in found):
            reason = f": {found[0].error}" if found[0].error else ""
            bad[gold] = f"the judge {choice.name} cannot use the right answer '{gold[:SHOWN]}'{reason}"
    return bad
