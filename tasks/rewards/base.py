"""The verdict of a judge on one answer, and the limits that it works under."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import PositiveFloat, PositiveInt

from params.base import Config


@dataclass(frozen=True)
class Verdict:
    """The judgement of one answer.

    ``reward`` is None where the judge failed (it was killed, it crashed): such a response is left out
    of training and counted. A wrong or unreadable answer is a reward of 0, with the reason if there is one.
    """

    reward: float | None
    error: str | None = None
    explained: dict[str, str] | None = None
    """How it came about, where that was asked for and the judge can tell."""


class Bounds(Config):
    """What every judge's ``Config`` begins with."""

    timeout_seconds: PositiveFloat = 5.0
    """Time for one answer; a process that takes longer is killed and replaced."""
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
