"""The update, blind to the algorithm: a loss is a sum of terms, each over tokens that it chose beforehand.

    loss = sum over terms: sum over the term's tokens: scale[token] * token_loss[token]

with ``scale = coefficient * weight / N(term)``. A term sees the whole batch once, when it is made: there it
chooses its tokens and fixes its denominator. Afterwards the trainer may split the batch as it likes, as long
as a response stays in one piece; the sum is the same.

What makes a term, and what it may ask to know of the responses beforehand, is in ``algorithms.contract``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from algorithms.divergence import TopK
from params.base import Config

if TYPE_CHECKING:
    from algorithms.contract import Hooks

Metrics = dict[str, Tensor]
"""Per-token values ``[t]`` by name; the trainer takes their mean over the tokens (``*_max``: the largest)."""

Aggregation = Literal["token_mean", "sequence_mean", "constant"]


@dataclass(frozen=True)
class Batch:
    """The response tokens of one optimiser step, flat: T tokens of S responses, in no particular order.

    Per token: ``sequence`` [T] int64 says which response it is of, ``behaviour_logp`` [T] float32 is what the
    sampler gave it (nats, at the training temperature), ``advantage`` [T] float32 is its response's,
    ``importance`` [T] float32 is a fixed weight (1 where there is none). Per response: ``fresh`` [S] bool is
    False for one from the replay buffer. ``max_tokens`` is the longest response that sampling allows.
    """

    sequence: Tensor
    behaviour_logp: Tensor
    advantage: Tensor
    importance: Tensor
    fresh: Tensor
    max_tokens: int
    counted: Tensor | None = None
    """[S] bool: the responses in the objective's denominator; None: the fresh ones."""
    objective: Tensor | None = None
    """[S] bool: those of them whose loss the objective gives, and not a term; None: all of them."""
    age: Tensor | None = None
    """[S] int64: rounds since a response was sampled; None: 0 for all."""
    reward: Tensor | None = None
    """[S] float32: what the judge gave; None where no term may ask."""
    group: Tensor | None = None
    """[S] int64: responses to one problem share a number; -1: of no group of this round."""
    aggregation: Aggregation = "token_mean"
    """How the objective averages."""
    top: TopWords | None = None
    """The sampler's likeliest tokens, where they were stored."""
    entropy: Tensor | None = None
    """[T] float32, nats: the sampler's entropy at each token, over the whole vocabulary and at the training
    temperature; NaN where it is not known. None where no term asks (``entropy_from``)."""
    boundary: Tensor | None = None
    """[T] bool: the token closes a step. None where no term asks (``boundary``)."""
    chance: Tensor | None = None
    """[S] float64 in [0, 1): a draw for each response, of the run's seed, the round, the problem and the
    sample alone. None where no term asks (``draws``)."""
    reference_logp: Tensor | None = None
    """[T] float32, nats: of the base model of the run. None where no term asks (``reference``)."""


@dataclass(frozen=True)
class TopWords:
    """At each of T tokens the K that the behaviour policy held likeliest, at the training temperature."""

    ids: Tensor
    """[T, K] int64."""
    logp: Tensor
    """[T, K] float32, nats; -inf where fewer were stored."""
    sampled: Tensor
    """[T, K] bool: which of them is the token itself."""


@dataclass(frozen=True)
class Boundary:
    """What closes a step: a token whose decoded text holds one of ``texts``, or one of ``ids``."""

    texts: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Span:
    """Tokens [start, stop) of a response that a term learns from, and why those."""

    response: int
    """Its place among the batch's S responses."""
    start: int
    stop: int
    step_start: int
    """Where the step begins that was chosen; it ends at ``step_stop``."""
    step_stop: int
    entropy: float
    """Mean entropy of that step, in nats."""
    selection: str
    """The rule by which it was chosen."""


@dataclass(frozen=True)
class Signals:
    """What the forward pass says of t tokens: log-probabilities [t] with gradient, entropies [t] or None."""

    logp: Tensor
    entropy: Tensor | None = None
    top: Tensor | None = None
    """[t, K] log-probabilities of the batch's ``top`` tokens, without gradient, where a term asks."""


@dataclass(frozen=True)
class Term:
    """One summand of the loss.

    ``scale`` [T] is coefficient × weight / N and 0 outside the term's tokens. ``token_loss(signals, index)``
    takes the signals of the tokens ``index`` [t] into the batch and gives their loss [t] and metrics.
    """

    name: str
    scale: Tensor
    token_loss: Callable[[Signals, Tensor], tuple[Tensor, Metrics]]
    needs_entropy: bool = False
    needs_top: bool = False
    whole: bool = False
    """Whether it is given all tokens of each response of which it chose any."""
    drift: str | None = None
    """The metric that is the divergence (nats) of the policy from that which sampled a token; its means by
    the response's age are told as ``drift_by_age``."""
    by_age: tuple[str, ...] = ()
    """Further metrics whose means by age are told, as ``METRIC_by_age``."""
    spans: tuple[Span, ...] = ()
    """What it singled out, to be told of and shown."""
    task: str = ""
    """The task of a mixture that it is for, under whose name its metrics are told too; empty: all."""


@dataclass(frozen=True)
class MetricLabel:
    """How the report shows a metric of a part: for its contract's ``METRICS``."""

    name: str
    """As in the metrics; a term's has the term's name before it in ``metrics.json``."""
    label: str
    """The chart's title."""
    says: str
    """What it measures, and in what unit."""
    percent: bool = False
    """Write it as a percentage."""
    chart: bool = True
    """Draw it; False for one that says what another does."""


def aggregation_scale(sequence: Tensor, chosen: Tensor, how: Aggregation, max_tokens: int) -> Tensor:
    """weight / N for the chosen tokens [T] bool, 0 elsewhere; float32 [T].

    ``token_mean``: 1 / tokens. ``sequence_mean``: 1 / (responses × the response's tokens).
    ``constant``: 1 / (responses × max_tokens). Responses without a chosen token do not count.
    """
    lengths = torch.bincount(sequence, chosen.double())
    responses = max(int((lengths > 0).sum()), 1)
    if how == "token_mean":
        scale = chosen.double() / max(int(chosen.sum()), 1)
    elif how == "sequence_mean":
        scale = chosen.double() / (responses * lengths[sequence].clamp(min=1))
    else:
        scale = chosen.double() / (responses * max_tokens)
    return scale.float()


def over_responses(values: Tensor, sequence: Tensor, mean: bool = True) -> Tensor:
    """The mean, or the sum, of ``values`` [T] over each token's response, [T]; ``sequence``: any integers."""
    names, place = torch.unique(sequence, return_inverse=True)
    blank = values.new_zeros(len(names))
    totals = blank.index_add(0, place, values)
    if mean:
        totals = totals / blank.index_add(0, place, torch.ones_like(values))
    return totals[place]


def objective_term(batch: Batch, part: Hooks, config: Config, how: Aggregation) -> Term:
    """The policy-gradient objective of ``part``.

    An objective's loss is zero where the advantage is: such tokens count in the denominator and have no
    scale, so that the trainer need not compute them. An objective that compares the sampler's likeliest
    tokens says how many by ``top_k(config)`` and takes them as a sixth argument; raises
    ``ValueError`` where the batch has none.
    """
    counted = batch.fresh if batch.counted is None else batch.counted
    scale = aggregation_scale(batch.sequence, counted[batch.sequence], how, batch.max_tokens)
    mine = batch.advantage != 0
    if batch.objective is not None:
        mine &= batch.objective[batch.sequence]
    scale = torch.where(mine, scale * batch.importance, torch.zeros_like(scale))
    loss_of, asks = part.token_loss, part.top_k is not None and part.top_k(config) > 0
    words = batch.top if asks else None
    if loss_of is None or (asks and words is None):
        raise ValueError(f"{part.name}: no objective, or the rollouts hold no likeliest tokens")

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        more: tuple[TopK, ...] = ()
        if words is not None and signals.top is not None:
            more = (TopK(words.logp[index], signals.top, words.sampled[index]),)
        behaviour, advantage = batch.behaviour_logp[index], batch.advantage[index]
        return loss_of(signals.logp, behaviour, advantage, batch.sequence[index], config, *more)

    return Term(part.name, scale, token_loss, needs_top=words is not None, whole=part.WHOLE_RESPONSES)
