"""Shorter than the other answers to the same problem: from 0.5 for the shortest to -0.5 for the longest.

    r_i = 0.5 - (|o_i| - min |o|) / (max |o| - min |o|),  0 where all are of one length

The length reward of Kimi k1.5 (arXiv 2501.12599, section 2.3.3), in tokens, without its case for wrong
answers, whose reward it keeps from being positive: here another reward says which are wrong.
"""

from __future__ import annotations

from tasks.rewards.base import Bounds, Group, Verdict


class Config(Bounds):
    """Nothing to choose; how much it counts is its weight."""


def whole_groups(config: Config) -> bool:
    """It compares the answers of a group."""
    return True


def judge_group(group: Group, config: Config) -> list[Verdict]:
    """The right answer is not looked at."""
    lengths = [len(answer.tokens) or len(answer.text) for answer in group.answers]
    least, spread = min(lengths), max(lengths) - min(lengths)
    return [Verdict(0.5 - (length - least) / spread if spread else 0.0) for length in lengths]
