"""How much of an answer it has said before: 0 where nothing comes twice, down to -1.

    r = (distinct n-grams / n-grams) - 1        of words, without case

The measure behind the n-gram repetition penalty of Yeo et al. 2025, "Demystifying Long Chain-of-Thought
Reasoning in LLMs" (arXiv 2502.03373); as a share of the whole answer it is ours.
"""

from __future__ import annotations

from pydantic import PositiveInt

from tasks.rewards.base import Bounds, Group, Verdict


class Config(Bounds):
    """What counts as said again."""

    words: PositiveInt = 3
    """Words in an n-gram."""


def judge_group(group: Group, config: Config) -> list[Verdict]:
    """The right answer is not looked at. An answer with fewer words than one n-gram repeats nothing."""
    return [Verdict(-_repeated(answer.said.lower().split(), config.words)) for answer in group.answers]


def _repeated(words: list[str], size: int) -> float:
    """The share of n-grams that came before."""
    grams = [tuple(words[place : place + size]) for place in range(len(words) - size + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0
