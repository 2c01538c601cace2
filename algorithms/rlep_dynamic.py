"""RLEP's use of replayed answers on DyJR's buffer: a policy gradient where DyJR has a constraint.

    L = the objective's clipped loss over the fresh and the drawn answers, in one denominator
    A = (1 - p) / sqrt(p (1 - p)) of a drawn answer, p the share of its own group that was right; 0 at p = 1

The middle step of Figure 2 of DyJR, arXiv 2603.16157v1: RLEP, then RLEP on DyJR's buffer, then DyJR. Replayed
answers count as data of the current policy: their ratio is taken to the policy before the update, as in RLEP
(arXiv 2507.07451), and nothing corrects for the policy that sampled them. Which problems return and with
which advantage the paper does not say. A query hardly ever returns within the buffer's largest age, so there
is no fresh group to join: we draw as DyJR draws, and an answer has the advantage that it had at birth.
Answers of groups that were all right, which enter first, then teach nothing: that is so in RLEP too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from algorithms import dyjr
from algorithms.drawing import Drawn, Entropy, Fresh
from algorithms.replay_buffer import ReplayBuffer
from params.base import BadInput

__all__ = ["birth_advantage"]

admit = dyjr.admit


class Config(dyjr.Filling):
    """How the buffer is filled, and how much of it an update sees: DyJR's own."""


def draw(
    fresh: Fresh, buffer: ReplayBuffer, config: Config, generator: torch.Generator, entropy: Entropy
) -> Drawn:
    """Uniformly, each with the advantage of its birth."""
    rows = dyjr.draw(fresh, buffer, config, generator, entropy).rows
    share = rows["group_accuracy"].to_pylist() if rows.num_rows else []
    advantage = birth_advantage(torch.tensor(share, dtype=torch.float32))
    return Drawn(rows, torch.full((rows.num_rows,), -1), "objective", "current", advantage)


def birth_advantage(share: Tensor) -> Tensor:
    """The standardised advantage [R] of a right answer in a group of which ``share`` [R] was right.

    Raises ``BadInput`` for a mean reward that is no such share.
    """
    if not bool(((share > 0) & (share <= 1)).all()):
        raise BadInput(
            f"method.replay: rlep_dynamic: right answers of groups with mean rewards from "
            f"{float(share.min()):g} to {float(share.max()):g}; expected rewards of 0 and 1"
        )
    wrong = 1.0 - share
    return torch.where(wrong > 0, (wrong / share).sqrt(), torch.zeros_like(share))
