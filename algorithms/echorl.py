"""EchoRL: of each problem with a right answer, learn from the start of one up to its most uncertain step.

    s* = argmax over the steps s of the right answers of a group of  mean over t in s of H_t
    L = L_objective + coefficient * mean over problems of  -(1/l) sum over t <= l of log pi(y*_t)

y* is the answer that holds s*, l the position at which s* ends, H_t the entropy of the sampling policy at the
training temperature. In a group that is all right the objective has no gradient, and the echo has one.

EchoRL, arXiv 2605.31228, equations 6 to 10; newlines there are two token ids, its controls ``whole_high`` and
``whole_low``. Not said there and ours: that a boundary closes its own step and a tail is a step, boundaries
by the decoded text, the ties (lowest sample, then step), the mean over an optimiser step's problems,
``all_success``, the other controls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from algorithms.correct import CORRECT
from algorithms.terms import Batch, Boundary, MetricLabel, Metrics, Signals, Span, Term
from params.base import Config as Options

__all__ = ["chosen_step", "step_entropies", "steps"]

METRICS = (
    MetricLabel("spans", "Echo: problems", "problems with a span that was fed back", chart=False),
    MetricLabel("span_length", "Echo: length", "mean tokens of the answers' beginnings that were fed back"),
    MetricLabel("span_share", "Echo: share", "of its answer that a span is, mean", percent=True),
    MetricLabel("span_entropy", "Echo: entropy", "mean of the chosen steps, nats per token"),
    MetricLabel("nll", "Echo: surprisal", "minus the log-probability of the spans' tokens, nats per token"),
)

Step = tuple[int, int]
"""Positions [start, stop) of a response."""
Trigger = Literal["any_success", "all_success"]
Select = Literal["max_entropy", "min_entropy", "random_clip", "whole", "whole_high", "whole_low"]

_TEXTS: dict[str, tuple[str, ...]] = {
    "newline": ("\n",),
    "sentence": (".", "!", "?", "。", "！", "？", "\n"),
    "semicolon": (";",),
}


class Config(Options):
    """Which answers echo, how far, and how loudly."""

    coefficient: Annotated[float, Field(ge=0.0)] = 0.001
    """Weight of the echo. 0: the method without it, bit for bit, and nothing computed."""
    trigger: Trigger = "any_success"
    """Groups that echo: those with a right answer, or only those whose answers are all right."""
    select: Select = "max_entropy"
    """The span ends with the step of the highest mean entropy, or with that of the lowest. Further controls:
    ``random_clip``, as many first tokens of a right answer drawn from those that have as many; ``whole``, the
    answer with the step of the highest entropy to its end; ``whole_high`` and ``whole_low``, the whole answer
    of the highest and of the lowest mean entropy over all its tokens."""
    rounds: tuple[PositiveInt, PositiveInt] | None = None
    """The first and the last round in which the echo acts, counted from 1; null: all."""
    min_step_tokens: PositiveInt = 1
    """A shorter step is not chosen: the highest mean entropy favours short steps. Not for whole answers."""
    boundary: Literal["newline", "sentence", "semicolon", "paper_ids", "characters"] = "newline"
    """The token that closes a step: with a newline in its text; with . ! ? or a newline; with a semicolon; of
    ``ids``; with one of ``characters``."""
    ids: tuple[int, ...] = (198, 271)
    """For ``paper_ids``; the default is the published list: Qwen's tokens for one newline and for two."""
    characters: str = ""
    """For ``characters``."""
    entropy: Literal["stored", "policy"] = "stored"
    """``stored``: the sampler's own, kept by ``rollout.entropy``. ``policy``: by a forward pass of the policy
    before the update over the right answers of groups that echo."""

    @model_validator(mode="after")
    def _rounds_in_order(self) -> Config:
        if self.rounds and self.rounds[0] > self.rounds[1]:
            raise ValueError(f"echorl: rounds: {list(self.rounds)}; expected the first, then the last")
        return self

    @model_validator(mode="after")
    def _has_characters(self) -> Config:
        if (self.boundary == "characters") != bool(self.characters):
            raise ValueError("echorl: boundary: characters and a text in characters go together")
        return self


@dataclass(frozen=True)
class ChosenStep:
    """A step of a group."""

    sample: int
    """Position of the response in the group."""
    step: Step
    entropy: float
    """Mean over the step, nats."""


def acts(config: Config, round: int) -> bool:
    """Whether the echo acts in this round."""
    return config.rounds is None or config.rounds[0] <= round <= config.rounds[1]


def boundary(config: Config) -> Boundary | None:
    """What closes a step; None where the term is switched off."""
    if not config.coefficient:
        return None
    if config.boundary == "paper_ids":
        return Boundary(ids=config.ids)
    return Boundary(texts=_TEXTS.get(config.boundary) or tuple(config.characters))


def entropy_from(config: Config) -> Literal["stored", "policy"] | None:
    """Where the entropies come from; None where the term is switched off."""
    return config.entropy if config.coefficient else None


def draws(config: Config) -> bool:
    """Whether the span is chosen by chance."""
    return bool(config.coefficient) and config.select == "random_clip"


def candidates(reward: Tensor, group: Tensor, fresh: Tensor, config: Config) -> Tensor:
    """[S] bool: the responses that may echo, which are fresh, right and in a group that echoes.

    ``reward`` [S], ``group`` [S] (-1: of none), ``fresh`` [S] bool. Replayed responses count for nothing.
    """
    right = fresh & (group >= 0) & (reward >= CORRECT)
    if config.trigger == "all_success":
        right &= ~torch.isin(group, group[fresh & (reward < CORRECT)])
    return right


def steps(boundary: Sequence[bool] | Tensor) -> list[Step]:
    """A response's steps [start, stop), which partition its positions; ``boundary`` says of each position
    whether it closes a step. It belongs to the step that it closes, and a tail without one is a step."""
    flags = torch.as_tensor(boundary, dtype=torch.bool)
    stops = (flags.nonzero().squeeze(1) + 1).tolist()
    if len(flags) and (not stops or stops[-1] < len(flags)):
        stops.append(len(flags))
    return list(zip([0, *stops[:-1]], stops, strict=True)) if stops else []


def step_entropies(entropy: Sequence[float] | Tensor, steps: Sequence[Step]) -> list[float]:
    """The mean entropy of each step, nats, of one value per position; a NaN makes that of its step NaN."""
    values = torch.as_tensor(entropy, dtype=torch.float64)
    lengths = torch.tensor([stop - start for start, stop in steps])
    number = torch.arange(len(steps)).repeat_interleave(lengths)
    sums = torch.zeros(len(steps), dtype=torch.float64).index_add_(0, number, values[: len(number)])
    means: list[float] = (sums / lengths).tolist()
    return means


def chosen_step(
    entropies: Sequence[Sequence[float] | Tensor],
    steps: Sequence[Sequence[Step]],
    rewards: Sequence[float] | Tensor,
    *,
    lowest: bool = False,
    min_step_tokens: int = 1,
    trigger: Trigger = "any_success",
) -> ChosenStep | None:
    """The step that ends the span (the paper's EchoClip, arXiv:2605.31228), tokens [0, its stop) of its
    sample: that of the highest (``lowest``: the lowest) mean entropy among those of a group's right answers;
    each argument is a list over the group. Of equals the first: lowest sample, then step. None where no
    answer is right, ``trigger`` asks for more, or every step is too short or of unknown entropy."""
    right = [float(reward) >= CORRECT for reward in rewards]
    if trigger == "all_success" and not all(right):
        return None
    best: ChosenStep | None = None
    for sample, (entropy, parts) in enumerate(zip(entropies, steps, strict=True)):
        if not right[sample] or not parts:
            continue
        for step, mean in zip(parts, step_entropies(entropy, parts), strict=True):
            better = best is None or (mean < best.entropy if lowest else mean > best.entropy)
            if not math.isnan(mean) and step[1] - step[0] >= min_step_tokens and better:
                best = ChosenStep(sample, step, mean)
    return best


def term(batch: Batch, config: Config) -> Term:
    """The echo, a mean over the batch's problems that have a span of the mean over its tokens.

    Metric [t]: ``nll``, minus the log-probability of the spans' tokens. Raises ``ValueError`` where the batch
    has not what the term asks for.
    """
    scale = torch.zeros(len(batch.sequence))
    spans: list[Span] = []
    if config.coefficient and len(batch.sequence):
        order = torch.argsort(batch.sequence, stable=True)
        places = torch.split(order, torch.bincount(batch.sequence, minlength=len(batch.fresh)).tolist())
        spans = _spans(batch, config, places)
        for span in spans:
            scale[places[span.response][: span.stop]] = config.coefficient / (len(spans) * span.stop)

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        loss = -signals.logp
        return loss, {"nll": loss.detach()}

    return Term(name="echorl", scale=scale, token_loss=token_loss, spans=tuple(spans))


def _spans(batch: Batch, config: Config, places: Sequence[Tensor]) -> list[Span]:
    """The span of each group that has one, in the order of the groups; ``places``: each response's tokens."""
    if batch.reward is None or batch.group is None or batch.entropy is None or batch.boundary is None:
        raise ValueError("echorl: the batch lacks rewards, groups, entropies or boundaries")
    right = candidates(batch.reward, batch.group, batch.fresh, config)
    found = []
    for group in torch.unique(batch.group[right]).tolist():
        members = (right & (batch.group == group)).nonzero().squeeze(1).tolist()
        whole = config.select in ("whole_high", "whole_low")
        closes = [batch.boundary[places[i]] & (not whole) for i in members]
        chosen = chosen_step(
            [batch.entropy[places[i]] for i in members],
            [steps(each) for each in closes],
            [CORRECT] * len(members),
            lowest=config.select in ("min_entropy", "whole_low"),
            min_step_tokens=1 if whole else config.min_step_tokens,
        )
        if chosen is not None:
            found.append(_span(batch, batch.entropy, config, places, members, chosen))
    return found


def _span(
    batch: Batch,
    entropy: Tensor,
    config: Config,
    places: Sequence[Tensor],
    members: Sequence[int],
    chosen: ChosenStep,
) -> Span:
    response, (start, stop), end = members[chosen.sample], chosen.step, chosen.step[1]
    if config.select == "whole":
        end = len(places[response])
    elif config.select == "random_clip":
        if batch.chance is None:
            raise ValueError("echorl: the batch lacks draws")
        enough = [i for i in members if len(places[i]) >= end]
        response = enough[int(batch.chance[enough].argmax())]
        (mean,) = step_entropies(entropy[places[response]], [(0, end)])
        return Span(response, 0, end, 0, end, mean, config.select)
    return Span(response, 0, end, start, stop, chosen.entropy, config.select)
