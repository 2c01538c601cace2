"""What a judge says of one answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """The judgement of one answer.

    ``reward`` is None where the judge failed (it was killed, it crashed): such a response is left out
    of training and counted. A wrong or unreadable answer is a reward of 0, with the reason if there is one.
    """

    reward: float | None
    error: str | None = None
