"""What decides whether an answer is right. One judge, one file: a frozen ``Config`` and a ``judge``.

All that a judge's module may have is a field of ``Reward``. It runs in processes of its own
(``tasks.rewards.judge``) and may hang, crash or eat memory there: nobody else notices. Such a module must not
import torch. A name with a colon, ``package.module:function``, is a function of the user's own
(``tasks.rewards.custom``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from params.base import Choice
from params.parts import Part, find_part
from tasks.rewards.base import Bounds, Group, Verdict
from tasks.rewards.custom import Custom


@dataclass(frozen=True)
class Reward(Part):
    """What a judge's module offers; None where it has no such hook."""

    judge: Callable[[str, str, Any], Verdict] | None = None
    """``judge(gold, answer, config)``, which every judge has that needs no more than that."""
    judge_group: Callable[[Group, Any], Sequence[Verdict]] | None = None
    """``judge_group(group, config)``: a verdict on each of the group's answers, in place of ``judge``, for
    one that reads tokens, columns or the other answers."""
    whole_groups: Callable[[Any], bool] | None = None
    """``whole_groups(config)``: whether ``judge_group`` must see all answers to a problem at once; otherwise
    it is given one, as soon as that is there."""
    check: Callable[[Any, str], None] | None = None
    """``check(config, where)``: raises ``BadInput``, that begins with ``where``, before anything runs."""
    needs_columns: Callable[[Any], Sequence[str]] | None = None
    """``needs_columns(config)``: columns that the problems must have."""
    reads_columns: Callable[[Any], bool] | None = None
    """``reads_columns(config)``: whether it may read columns, so that only a real problem shows whether it
    works."""
    content_keys: Callable[[Group, Any], Sequence[str]] | None = None
    """``content_keys(group, config)``: for each answer a digest of all that its verdict depends on. Verdicts
    of such a reward are dear: they are kept, and asked for once."""
    enter: Callable[[Path | None, Any], None] | None = None
    """``enter(root, config)``, called once in each process before anything is judged and before its limits
    hold; ``root`` is the directory of the problems (their artefact), or None where there is none."""
    explain: Callable[[str, str, Any], dict[str, str]] | None = None
    """``explain(gold, answer, config)``: what was read on both sides, by name, for ``ostinato judge
    --explain``."""
    self_answers: Callable[[str, Any], tuple[str, ...]] | None = None
    """``self_answers(gold, config)``: answers that say the right answer itself, of which the judge must take
    one for right; none where that is sure. Raises ``ValueError`` with the reason where ``gold`` is no answer.
    Of a judge that has it, right answers are looked at before anything runs."""
    confine: Callable[[], None] | None = None
    """``confine()``, called once in each process after that: limits beyond those of every judge."""


def find_reward(name: str, where: str) -> Reward:
    """The judge that is called ``name``; raises ``BadInput``."""
    if ":" in name or "." in name:
        mine = Custom.named(name, where)
        return Reward(
            name,
            mine.file,
            mine.Config,
            judge_group=mine.judge_group,
            whole_groups=mine.whole_groups,
            check=mine.check,
            needs_columns=mine.needs_columns,
            reads_columns=mine.reads_columns,
            enter=mine.enter,
        )
    return find_part(Reward, "tasks.rewards", name, ("judge", "judge_group"), where)


def chosen_reward(choice: Choice, where: str) -> tuple[Reward, Bounds]:
    """The judge of a choice and its options, checked; raises ``BadInput``."""
    reward = find_reward(choice.name, where)
    config: Any = choice.resolve(reward.Config, where)
    if reward.check:
        reward.check(config, where)
    return reward, config
