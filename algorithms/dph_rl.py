"""DPH-RL: the base model's answers to problems that it masters, as a static reference to stay near to.

    buffer    before training the base answers each problem n times; of those with at least m of n right, one
              right answer each, with the base's log-probabilities; it never changes
    loss      objective(fresh) + coefficient * mean over the drawn tokens of f(u),   u = pi(y_t) / base(y_t)

f is DyJR's, ``js_low_var`` of the released code, or the forward KL. Li et al. 2025, DPH-RL, arXiv 2509.07430,
and its code, where m = n = 8; DyJR, arXiv 2603.16157v1, ran it with 6 of 8, a coefficient of 0.2 and 512
replayed answers beside 4,096. Not said, and chosen: the answer is a problem's first right one; the mean is
over tokens; rows are drawn uniformly without replacement. Mastered problems stay in training, as DyJR has it;
DPH-RL itself explores the others alone.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from algorithms import dyjr
from algorithms.correct import CORRECT
from algorithms.drawing import Drawn, Entropy, Fresh, reached
from algorithms.replay_buffer import ReplayBuffer
from algorithms.terms import Batch, Term
from params.base import Config as Options

METRICS = dyjr.METRICS
BASE_OPTIONS = ("samples", "least_right")


class Config(Options):
    """What the base has to master, and how strong the constraint is."""

    samples: PositiveInt = 8
    """n: answers of the base to each training problem."""
    least_right: PositiveInt = 6
    """m: right ones among them that make a problem mastered."""
    coefficient: Annotated[float, Field(ge=0.0)] = 0.2
    """On the scale of twice the divergence (``forward_kl``: of the divergence)."""
    form: Literal["jensen_shannon", "forward_kl"] = "jensen_shannon"
    """Which divergence of the policy from the base."""
    aggregation: Literal["sequence_mean", "token_mean"] = "token_mean"
    """Mean over all tokens, or over the sequences of their token means."""
    share: Annotated[float, Field(ge=0.0)] = 0.125
    """Replayed responses as a share of the fresh ones."""

    @model_validator(mode="after")
    def _can_master(self) -> Self:
        if self.least_right > self.samples:
            raise ValueError("method.replay.least_right must not exceed method.replay.samples")
        return self


def base_answers(config: Config) -> int:
    """How often the base answers each training problem."""
    return config.samples


def admit(reward: Tensor, group: Tensor, eligible: Tensor, round: int, config: Config) -> list[int]:
    """The first right answer to each mastered problem."""
    right = reward >= CORRECT
    found: list[int] = []
    for query in torch.unique(group).tolist():
        places = (right & (group == query)).nonzero().flatten().tolist()
        found += places[:1] if len(places) >= config.least_right else []
    return found


def draw(
    fresh: Fresh, buffer: ReplayBuffer, config: Config, generator: torch.Generator, entropy: Entropy
) -> Drawn:
    """Uniformly, without replacement, for the term alone."""
    rows = buffer.sample(reached(config.share, len(fresh.problem)), generator)
    return Drawn(rows, torch.full((rows.num_rows,), -1), "aside")


def term(batch: Batch, config: Config) -> Term:
    """DyJR's constraint on the batch's replayed tokens; metrics as there."""
    options = {name: getattr(config, name) for name in ("coefficient", "form", "aggregation")}
    return dataclasses.replace(dyjr.term(batch, dyjr.Config(**options)), name="dph_rl", drift=None)
