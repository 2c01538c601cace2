"""What an environment is given and what it says: the surroundings of a model for several turns.

One environment is one class. Ours has ``start`` and ``step``; two kinds that people have are taken as they
are, told apart by what they have (``tasks.environments.adapters``):

- ours: ``start(problem)``, ``step(said) -> Turn``;
- TRL's: ``reset(**row)``, every other public method a tool, ``get_reward()``;
- a text environment (SkyRL-Gym's): ``init(prompt)``, ``step(action)`` with observations, reward and done.

Any of them may have ``get_answer()``: what the task's judge reads where the environment gives no reward, in
place of what the model said in its last turn.

Each episode has one of its own, in a process of its own that may hang, crash or eat memory: nobody else
notices. Such a module must not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Message = dict[str, Any]
"""``role``, one of user and tool, ``content``, and of a tool its ``name``."""


@dataclass(frozen=True)
class Problem:
    """What an episode is about."""

    question: str
    answer: str
    """The right answer, as the judge reads it."""
    seed: int
    """Of (run, stage, round, problem, sample): the only source of chance that an environment may have."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Every column of the problem's row in its source."""
    folder: Path | None = None
    """The directory of the problems (their artefact), which holds their databases."""


@dataclass(frozen=True)
class Turn:
    """What an environment says to a turn of the model."""

    said: str = ""
    """What the model reads next; nothing is read where it is done."""
    reward: float | None = None
    """For this turn. The episode's reward is the sum; None for all of them: the task's judge gives it."""
    done: bool = False


class Environment(Protocol):
    """One episode's surroundings. The class takes its options as keyword arguments."""

    def start(self, problem: Problem) -> str | None:
        """Begin; what is to stand behind the user's message, if anything."""

    def step(self, said: str) -> Turn:
        """The answer to what the model says, without its thinking."""
