"""Soft overlong punishment: 0, and from ``cache_tokens`` before the limit on falling to -1 at the limit.

DAPO, arXiv 2503.14476, equation 13, as a reward of its own: with a weight, and shown apart. Without one,
``method.overlong_tokens`` does the same.
"""

from __future__ import annotations

from pydantic import PositiveInt

from tasks.rewards.base import Bounds, Group, Verdict


class Config(Bounds):
    """Where it begins and ends, in tokens."""

    cache_tokens: PositiveInt
    """Last tokens before the limit over which it falls."""
    max_tokens: PositiveInt | None = None
    """The limit; null: the longest answer that sampling allows."""


def judge_group(group: Group, config: Config) -> list[Verdict]:
    """The right answer is not looked at."""
    limit = config.max_tokens or group.max_tokens
    if limit is None:
        return [Verdict(None, "no limit known; expected max_tokens") for _ in group.answers]
    free = limit - config.cache_tokens
    return [
        Verdict(min(0.0, max(-1.0, (free - len(answer.tokens)) / config.cache_tokens)))
        for answer in group.answers
    ]
