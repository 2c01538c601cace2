"""How much of an answer it has said before: 0 where nothing comes twice, down to -1.

    r = (distinct n-grams / n-grams) - 1        of words, without case

The measure behind the n-gram repetition penalty of Yeo et al. 2025, "Demystifying Long Chain-of-Thought
Reasoning in LLMs" (arXiv 2502.03373); as a share of the whole answer it is ours.
"""

from __future__ import annotations

from pydantic import PositiveInt

from tasks.rewards.base import Bounds, Verdict


class Config(Bounds):
    """What counts as said again."""

    words: PositiveInt = 3
    """Words in an n-gram."""


def judge(gold: str, answer: str, config: Config) -> Verdict:
    """The right answer is not looked at. An answer with fewer words than one n-gram repeats nothing."""
    words = answer.lower().split()
    count = len(words) - config.words + 1
    if count < 1:
        return Verdict(0.0)
    return Verdict(len({tuple(words[i : i + config.words]) for i in range(count)}) / count - 1.0)
