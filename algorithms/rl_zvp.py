"""RL-ZVP: problems whose answers are all right or all wrong teach, by the entropy of each token.

    all right:   A_t = +alpha H_t
    all wrong:   A_t = -alpha (max over the answer's tokens of H - H_t)

in the clipped surrogate, over the objective's denominator; H_t is the entropy of the policy that sampled,
over the whole vocabulary, and a constant. An uncertain token of a right answer is pulled up the most, a sure
token of a wrong one pushed down the most. Groups that differ are the objective's, as without this term.

Le et al. 2025, "No Prompt Left Behind", arXiv 2509.21880, equation 5, whose full text was not at hand. Ours:
alpha's default, bounds of its own, the denominator, and that a group of rewards between wrong and right
agrees where they are equal, and counts as wrong.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from algorithms import grpo
from algorithms.correct import CORRECT
from algorithms.terms import Batch, MetricLabel, Metrics, Signals, Term, aggregation_scale

__all__ = ["token_advantage"]

METRICS = (
    MetricLabel(
        "right", "Zero variance: right", "of these tokens, in answers that are all right", percent=True
    ),
    MetricLabel("pull", "Zero variance: pull", "mean size of the advantage of these tokens, without unit"),
    MetricLabel(
        "clip_fraction", "Zero variance: clipped", "tokens beyond a bound", percent=True, chart=False
    ),
)


class Config(grpo.Config):
    """How strong the advantages are, and their bounds."""

    alpha: Annotated[float, Field(ge=0.0)] = 0.1
    """Advantage a nat of entropy. 0: the method without it, bit for bit, and nothing computed."""
    entropy: Literal["stored", "policy"] = "stored"
    """``stored``: the sampler's own, kept by ``rollout.entropy``. ``policy``: by a forward pass of the policy
    before the update over the answers of groups that agree."""


def entropy_from(config: Config) -> Literal["stored", "policy"] | None:
    """Where the entropies come from; None where the term is switched off."""
    return config.entropy if config.alpha else None


def candidates(reward: Tensor, group: Tensor, fresh: Tensor, config: Config) -> Tensor:
    """[S] bool: the fresh responses of groups of two and more whose rewards are all equal.

    ``reward`` [S], ``group`` [S] (-1: of none), ``fresh`` [S] bool. Replayed responses count for nothing.
    """
    own = fresh & (group >= 0) & ~reward.isnan()
    names, place = torch.unique(group, return_inverse=True)
    lowest = torch.full((len(names),), torch.inf, dtype=reward.dtype)
    lowest = lowest.scatter_reduce(0, place[own], reward[own], "amin")
    highest = torch.full_like(lowest, -torch.inf).scatter_reduce(0, place[own], reward[own], "amax")
    several = torch.bincount(place[own], minlength=len(names)) > 1
    return own & (several & (lowest == highest))[place]


def token_advantage(entropy: Tensor, sequence: Tensor, right: Tensor, alpha: float) -> Tensor:
    """[T] advantages of tokens of groups that agree, by their ``entropy`` [T] (nats); 0 where it is NaN.

    ``sequence`` [T] says which response a token is of, ``right`` [T] whether that response is right.
    """
    known = entropy.nan_to_num(0.0)
    names, place = torch.unique(sequence, return_inverse=True)
    most = known.new_zeros(len(names)).scatter_reduce(0, place, known, "amax")[place]
    shaped = alpha * torch.where(right, known, known - most)
    return torch.where(entropy.isnan(), torch.zeros_like(shaped), shaped)


def term(batch: Batch, config: Config) -> Term:
    """The clipped surrogate over the tokens of groups that agree, by the objective's denominator.

    Metrics [t]: those of ``METRICS``, and ``grpo``'s. Raises ``ValueError`` where the batch has not what the
    term asks for.
    """
    counted = batch.fresh if batch.counted is None else batch.counted
    advantage = torch.zeros_like(batch.advantage)
    right = torch.zeros_like(batch.advantage, dtype=torch.bool)
    if config.alpha and len(batch.sequence):
        if batch.reward is None or batch.group is None or batch.entropy is None:
            raise ValueError("rl_zvp: the batch lacks rewards, groups or entropies")
        agreeing = candidates(batch.reward, batch.group, batch.fresh, config) & counted
        mine = agreeing[batch.sequence] & (batch.advantage == 0)
        right = (batch.reward >= CORRECT)[batch.sequence]
        advantage[mine] = token_advantage(batch.entropy, batch.sequence, right, config.alpha)[mine]
    scale = aggregation_scale(batch.sequence, counted[batch.sequence], batch.aggregation, batch.max_tokens)
    scale = torch.where(advantage != 0, scale * batch.importance, torch.zeros_like(scale))

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        behaviour, pull = batch.behaviour_logp[index], advantage[index]
        loss, metrics = grpo.token_loss(signals.logp, behaviour, pull, batch.sequence[index], config)
        return loss, {**metrics, "right": right[index].float(), "pull": pull.abs()}

    return Term(name="rl_zvp", scale=scale, token_loss=token_loss)
