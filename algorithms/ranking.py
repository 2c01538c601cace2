"""How well a score orders the answers to each problem: the area under the ROC curve, with its error."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Ranking(NamedTuple):
    """How well a score orders the answers to each problem."""

    share: float | None
    """Of the pairs of answers to one problem, those in which the better rewarded has the higher score, equal
    scores counting half: the area under the ROC curve, within problems. None without any pair."""
    pairs: int
    error: float | None
    """Standard deviation of ``share`` of scores that have nothing to do with the rewards."""


def ranking(score: Tensor, reward: Tensor, group: Tensor) -> Ranking:
    """``score``, ``reward`` and ``group`` are [S]. The error is Kendall's for ties in the rewards, problem by
    problem: of m right and n wrong answers, that of Mann and Whitney, m n (m + n + 1) / 12 for the count."""
    won, pairs, variance = 0.0, 0, 0.0
    for name in torch.unique(group):
        mine = group == name
        better = reward[mine][:, None] > reward[mine]
        ahead = (score[mine][:, None] - score[mine]).sign()[better]
        won, pairs = won + float((ahead.double() + 1.0).sum()) / 2.0, pairs + int(better.sum())
        equal = torch.unique(reward[mine], return_counts=True)[1].tolist()
        variance += (_kendall(int(mine.sum())) - sum(map(_kendall, equal))) / 72.0
    return Ranking(won / pairs, pairs, math.sqrt(variance) / pairs) if pairs else Ranking(None, 0, None)


def _kendall(count: int) -> int:
    return count * (count - 1) * (2 * count + 5)
