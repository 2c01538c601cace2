"""What decides how good an answer is: one reward, or several by name, each with a weight."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import Field

from params.base import Choice

NAME = re.compile(r"[A-Za-z0-9_-]+")


class RewardChoice(Choice):
    """One of several rewards: ``{name: format, weight: 0.2}``, beside the options of the reward itself."""

    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """What it counts in the sum; 0: it is measured and nothing more."""
    label: str | None = None
    """What it is called in tables and charts; null: by its name, of ``package.module:function`` the last."""

    @property
    def called(self) -> str:
        """What it is called."""
        return self.label or re.split(r"[.:]", self.name)[-1]


Rewards = Choice | tuple[RewardChoice, ...]


def read_rewards(given: Any) -> Any:
    """``task.reward`` as a person gives it: one choice, or a list of them. Raises ``ValueError``."""
    if isinstance(given, dict) and given.keys() & {"weight", "label"}:
        given = [given]
    if not isinstance(given, list | tuple):
        return given if isinstance(given, Choice) else _choice(Choice, given, "task.reward")
    if not given:
        raise ValueError("task.reward: no reward in the list; expected one at least")
    found = tuple(
        each if isinstance(each, RewardChoice) else _choice(RewardChoice, each, f"task.reward.{place}")
        for place, each in enumerate(given)
    )
    for each in found:
        if not NAME.fullmatch(each.called):
            raise ValueError(
                f"task.reward: '{each.called}' is no name for a reward; expected a label of letters, digits, "
                "- and _"
            )
    name, times = Counter(each.called for each in found).most_common(1)[0]
    if times > 1:
        raise ValueError(f"task.reward: two rewards are called '{name}'; expected a label for one of them")
    if not any(each.weight for each in found):
        raise ValueError("task.reward: every weight is 0; expected one at least that is not")
    return found


def several(rewards: Rewards | Sequence[RewardChoice]) -> tuple[RewardChoice, ...]:
    """Each reward with its weight; one alone weighs 1."""
    if not isinstance(rewards, Choice):
        return tuple(rewards)
    if isinstance(rewards, RewardChoice):
        return (rewards,)
    return (RewardChoice(name=rewards.name, **(rewards.model_extra or {})),)


def combined(rewards: Rewards) -> bool:
    """Whether the reward that is trained on is another number than the one reward's own."""
    found = several(rewards)
    return len(found) > 1 or found[0].weight != 1.0


ChoiceT = TypeVar("ChoiceT", bound=Choice)


def _choice(kind: type[ChoiceT], given: Any, where: str) -> ChoiceT:
    named = given.get("name") if isinstance(given, dict) else given
    if not isinstance(named, str) or not named:
        raise ValueError(f"{where}: {given!r:.60} names no reward; expected a name, or a mapping with one")
    weight = given.get("weight", 1.0) if isinstance(given, dict) else 1.0
    if kind is RewardChoice and (isinstance(weight, bool) or not isinstance(weight, int | float)):
        raise ValueError(f"{where}.weight: {weight!r:.40}; expected a number")
    return kind.model_validate(given)
