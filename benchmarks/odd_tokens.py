"""A reward in which answers of random weights differ."""

from __future__ import annotations

from collections.abc import Sequence


def odd(completion_ids: Sequence[Sequence[int]]) -> list[float]:
    """1 where the sum of an answer's tokens is odd."""
    return [float(sum(ids) % 2) for ids in completion_ids]
