"""Problems as rewards see them: with every column of their source, and the message that was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from params.base import BadInput
from params.reward import Rewards, several
from params.task import Task
from tasks.rewards.base import Group
from tasks.rewards.contract import chosen_reward


def groups_of(
    rows: Sequence[Mapping[str, Any]], task: Task, max_tokens: int | None = None, round: int = 0
) -> list[Group]:
    """A group without answers for each row of a table of problems; raises ``BadInput`` for columns that a
    reward needs and no row has."""
    groups = [
        Group(
            gold=row["answer"],
            answers=(),
            question=row["question"],
            prompt=task.prompt.template.replace("{question}", row["question"]),
            source=row["source"],
            columns=json.loads(row.get("columns") or "{}"),
            max_tokens=max_tokens,
            round=round,
        )
        for row in rows
    ]
    check_columns(task.reward, groups)
    return groups


def check_columns(rewards: Rewards, groups: Sequence[Group]) -> None:
    """Raise ``BadInput`` for the first column that a reward needs and no problem has."""
    for choice in several(rewards):
        reward, config = chosen_reward(choice, "task.reward")
        needed = reward.needs_columns(config) if reward.needs_columns else ()
        known = (
            {name for group in groups for name in group.columns} | {"question", "answer"} if needed else ()
        )
        for name in needed:
            if name not in known:
                raise BadInput(
                    f"task.reward: {choice.name} takes '{name}', which is no column of the problems; they "
                    f"have {', '.join(sorted(known))}"
                )
