"""What decides whether an answer is right. One judge, one file: a frozen ``Config`` and a ``judge``.

All that a judge's module may have is a field of ``Reward``. It runs in processes of its own
(``tasks.rewards.judge``) and may hang, crash or eat memory there: nobody else notices. Such a module must not
import torch. A name with a colon, ``package.module:function``, is a function of the user's own
(``tasks.rewards.custom``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from params.parts import Part, find_part
from tasks.rewards.base import Verdict
from tasks.rewards.custom import Custom


class JudgeAnswer(Protocol):
    """A verdict on one answer."""

    def __call__(self, gold: str, answer: str, config: Any) -> Verdict: ...


class Enter(Protocol):
    """``root``: the directory of the problems (their artefact), or None where there is none."""

    def __call__(self, root: Path | None, config: Any) -> None: ...


class Confine(Protocol):
    """Sets limits beyond those that hold for every judge."""

    def __call__(self) -> None: ...


@dataclass(frozen=True)
class Reward(Part):
    """What a judge's module offers; None where it has no such hook."""

    judge: JudgeAnswer | None = None
    """Every judge has it."""
    enter: Enter | None = None
    """Called once in each process before anything is judged and before its limits hold."""
    confine: Confine | None = None
    """Called once in each process after that."""


def find_reward(name: str, where: str) -> Reward:
    """The judge that is called ``name``; raises ``BadInput``."""
    if ":" in name:
        mine = Custom.named(name, where)
        return Reward(name, mine.file, mine.Config, judge=mine.judge, enter=mine.enter)
    return find_part(Reward, "tasks.rewards", name, "judge", where)
