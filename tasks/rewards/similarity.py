"""How much of a text agrees with the right one: 1 for the same characters, less the more they differ.

The Ratcliff-Obershelp measure 2 M / T, with M matching characters of T in both texts: partial credit for
answers that are right in most places, such as a query with one wrong column.
"""

from __future__ import annotations

from difflib import SequenceMatcher

from pydantic import PositiveInt

from tasks.rewards.base import Bounds, Verdict


class Config(Bounds):
    """How much is compared."""

    max_answer_characters: PositiveInt = 2048
    """Of a longer answer, only so many characters of its beginning are compared."""


def judge(gold: str, answer: str, config: Config) -> Verdict:
    """The share of characters that agree, in [0, 1]; the time is quadratic in the lengths at worst."""
    answer = answer[: config.max_answer_characters]
    return Verdict(SequenceMatcher(None, gold.strip(), answer.strip(), autojunk=False).ratio())
