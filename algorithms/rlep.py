"""RLEP: beside the fresh answers to a problem, some that an earlier run had right.

    G' = G + M,   A_i = (R_i - mean R) / std R over all G',   the objective's clipped loss for every one

The pool is of an earlier, converged run (``replay.pool``): its verified answers to the training problems, for
problems with at least two. M of a problem's are drawn at random. The ratio of a replayed token is taken to
the current policy before the update, not to what sampled it: nothing corrects for the pool's policy.
Zhang et al. 2025, RLEP, arXiv 2507.07451, sections 3 and 4, and its code.

Without a pool the run's own buffer of earlier rounds stands in for it, which is not in the paper.
"""

from __future__ import annotations

import pyarrow.compute as pc
import torch
from pydantic import PositiveInt

from algorithms.correct import CORRECT
from algorithms.drawing import Drawn, Entropy, Fresh, join_groups
from algorithms.replay_buffer import ReplayBuffer
from params.base import Config as Options

DRAWS_ROUND_BEFORE = True


class Config(Options):
    """How much is replayed."""

    successes: PositiveInt = 2
    """Successes of the pool that join each problem's group, or all where it has fewer."""


def draw(
    fresh: Fresh, buffer: ReplayBuffer, config: Config, generator: torch.Generator, entropy: Entropy
) -> Drawn:
    """Random successes of each fresh problem, which join its group."""
    rows = buffer.to_table()
    rows = rows.filter(pc.greater_equal(rows["reward"], CORRECT)) if len(rows) else rows
    return Drawn(*join_groups(rows, fresh, config.successes, generator), "objective", "current")
