"""UFT: answers go on from a hint, the beginning of a demonstration, which shortens as training goes on.

    p(t) = low + (high - low) (1 + cos(pi (t + 1) / T)) / 2  for t < T = hint_rounds,  0 afterwards
    l ~ Binomial(L, p(t))   parts of the demonstration's L stand before every answer to a problem
    L = L_objective(what follows the hint) + coefficient * mean over the hints' tokens of -log pi

Liu, Farina and Ozdaglar 2025, UFT, arXiv 2505.16984 (schedule: equation B.1), and its code: low 0.05, high
0.95, T 300 of 500 steps, coefficient 0.001, at most 5 parts, one hint for all answers of a group, drawn anew
each time the problem comes; GRPO with k3 to the base and an entropy bonus, 0.001 each; hint and answer are
judged together. Not said, and chosen: parts are lines, or tokens where a demonstration has one line; the end
token is of no hint; a problem without a demonstration has none; of several demonstrations one is drawn.
"""

from __future__ import annotations

import math
from typing import Annotated, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from algorithms.drawing import Drawn, Entropy, Fresh
from algorithms.likelihood import surprisal_term
from algorithms.replay_buffer import ReplayBuffer
from algorithms.terms import Batch, MetricLabel, Term
from params.base import Config as Options

__all__ = ["hint_length", "hint_share"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
METRICS = (
    MetricLabel("nll", "Hints: surprisal", "minus the log-probability of the hints' tokens, nats per token"),
)


class Config(Options):
    """How much of a demonstration is shown, for how long, and how much it teaches by itself."""

    low: Share = 0.05
    """Share that is shown in the last of the rounds with hints."""
    high: Share = 0.95
    """Share that is shown at first."""
    hint_rounds: PositiveInt = 300
    """Rounds with hints; the paper has three fifths of the run."""
    coefficient: Annotated[float, Field(ge=0.0)] = 0.001
    """Loss a nat of the hints' mean surprisal."""
    parts: PositiveInt = 5
    """Parts of about equal length that a demonstration is shown in, at most."""

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.low > self.high:
            raise ValueError("method.replay.low must not exceed method.replay.high")
        return self


def hint_share(step: int, low: float = 0.05, high: float = 0.95, steps: int = 300) -> float:
    """p: the share of a demonstration that is shown in ``step``, counted from 0, of ``steps`` with hints."""
    if not 0 <= step < steps:
        return 0.0
    return low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * (step + 1) / steps))


def hint_length(length: int, share: float, generator: torch.Generator) -> int:
    """Of ``length`` parts, how many are shown: a draw from Binomial(length, share)."""
    return int((torch.rand(length, generator=generator, dtype=torch.float64) < share).sum())


def hint(lines: Tensor, round: int, config: Config, generator: torch.Generator) -> int:
    """How many of a demonstration's T tokens, ``lines`` [T] bool says which end a line, are shown in
    ``round``, counted from 1. Its end token is not among them."""
    ends = (lines.nonzero().squeeze(1) + 1).tolist()
    if not ends or ends[-1] < len(lines):
        ends.append(len(lines))
    if len(ends) == 1:
        ends = list(range(1, len(lines) + 1))
    parts = min(config.parts, len(ends))
    share = hint_share(round - 1, config.low, config.high, config.hint_rounds)
    shown = hint_length(parts, share, generator)
    return ends[len(ends) * shown // parts - 1] if shown else 0


def draw(
    fresh: Fresh, buffer: ReplayBuffer, config: Config, generator: torch.Generator, entropy: Entropy
) -> Drawn:
    """The hints of this round's problems, each once, for the term alone."""
    rows = buffer.to_table().slice(0, 0) if fresh.hints is None else fresh.hints
    return Drawn(rows, torch.full((rows.num_rows,), -1), "aside")


def term(batch: Batch, config: Config) -> Term:
    """coefficient times the mean of -log pi over the hints' tokens; metric [t]: ``nll``."""
    mine = (~batch.fresh)[batch.sequence]
    scale = config.coefficient * mine.float() / max(int(mine.sum()), 1)
    return surprisal_term("uft", scale)
