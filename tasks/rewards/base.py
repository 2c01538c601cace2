"""What a judge says of one answer, and within which bounds it may work."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveFloat, PositiveInt

from params import Config


@dataclass(frozen=True)
class Verdict:
    """The judgement of one answer.

    ``reward`` is None where the judge failed (it was killed, it crashed): such a response is left out
    of training and counted. A wrong or unreadable answer is a reward of 0, with the reason if there is one.
    """

    reward: float | None
    error: str | None = None


class Bounds(Config):
    """What every judge's ``Config`` begins with."""

    timeout_seconds: PositiveFloat = 5.0
    """Time for one answer; a judge that takes longer is killed and replaced."""
    memory_mib: PositiveInt = 1024
    """Address space of a judging process."""
