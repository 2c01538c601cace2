"""What a reward is given and what it says: answers to one problem, a verdict on each, and its limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import PositiveFloat, PositiveInt

from params.base import Config


@dataclass(frozen=True)
class Verdict:
    """The judgement of one answer.

    ``reward`` is None where the judge failed (it was killed, it crashed): such a response is left out
    of training and counted. A wrong or unreadable answer is a reward of 0, with the reason if there is one.
    None without an error, of one of several rewards: it does not apply to this answer.
    """

    reward: float | None
    error: str | None = None
    explained: dict[str, str] | None = None
    """How it came about, where that was asked for and the judge can tell."""
    notes: dict[str, Any] | None = None
    """What else it says, by name, as JSON: it stands beside the answer, and numbers are averaged."""
    total: float | None = None
    """Of several rewards the weighted sum, which is trained on; None for one alone, and where one failed."""
    parts: dict[str, float | None] | None = None
    """What each of several said, by name."""


@dataclass(frozen=True)
class Answer:
    """One answer."""

    text: str
    tokens: tuple[int, ...] = ()
    """Its token ids, with the end token, if there is one, and without a hint that ``text`` begins with."""
    whole: str | None = None
    """All that the model said, where ``text`` is without its thinking."""

    @property
    def said(self) -> str:
        """All that the model said."""
        return self.text if self.whole is None else self.whole


@dataclass(frozen=True)
class Group:
    """Answers to one problem: all that were sampled of it, or one of them."""

    gold: str
    """The right answer, as the source of the problems read it."""
    answers: tuple[Answer, ...]
    question: str = ""
    prompt: str = ""
    """The user's message that was asked."""
    source: str = ""
    """The generator or file of the problem."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Every column of the problem's row in its source."""
    max_tokens: int | None = None
    """The most tokens that an answer could have."""
    round: int = 0

    def only(self, *places: int) -> Group:
        """The group with these of its answers."""
        return replace(self, answers=tuple(self.answers[place] for place in places))


class Bounds(Config):
    """What every judge's ``Config`` begins with."""

    timeout_seconds: PositiveFloat = 5.0
    """Time for one answer; a process that takes longer is killed and replaced. A reward that is given a whole
    group has so much for each of its answers."""
    memory_mib: PositiveInt = 1024
    """Address space of a judging process."""


def _nobody() -> None:
    pass


_listener: Callable[[], None] = _nobody


def answer_begins() -> None:
    """To be called by a judge when its own preparations end and it begins to run what the answer says.

    A process that is killed for its time after this gives a reward of 0: the answer took too long. Before, or
    without such a call, the judge took too long and there is no reward.
    """
    _listener()


def listen(listener: Callable[[], None]) -> None:
    """Have ``listener`` called by ``answer_begins``: how a judging process tells its parent."""
    global _listener  # noqa: PLW0603 - one judge a process
    _listener = listener
