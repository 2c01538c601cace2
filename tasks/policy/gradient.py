"""One optimiser step's gradient: the terms' sum over micro-batches, whatever the split."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from algorithms.terms import Batch, Signals, Term
from tasks.policy import lanes, rows
from tasks.policy.policy import Policy, offsets


@dataclass(frozen=True)
class Step:
    """What one optimiser step learns from: S responses, their tokens end to end, and the loss's terms."""

    prompts: Sequence[rows.Ids]
    responses: Sequence[rows.Ids]
    batch: Batch
    terms: Sequence[Term]

    def live(self) -> list[int]:
        """Responses with a token on which some term has a scale; the others cannot change the gradient."""
        scaled = torch.zeros(len(self.batch.sequence), dtype=torch.bool)
        for term in self.terms:
            scaled |= term.scale != 0
        return sorted(set(self.batch.sequence[scaled].tolist()))


@dataclass
class Meter:
    """Per-token values added up: means, and the largest for names that end in ``_max``."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    positions: int = 0
    loss: float = 0.0

    def add(self, name: str, values: Tensor) -> None:
        """Take in values [t]."""
        if not len(values):
            return
        exact = values.detach().double()
        if name.endswith("_max"):
            self.sums[name] = max(self.sums.get(name, -math.inf), float(exact.max()))
        else:
            self.sums[name] = self.sums.get(name, 0.0) + float(exact.sum())
        self.counts[name] = self.counts.get(name, 0) + len(values)

    def merge(self, other: Meter) -> None:
        """Take in another meter's values."""
        for name, value in other.sums.items():
            largest = name.endswith("_max")
            before = self.sums.get(name, -math.inf if largest else 0.0)
            self.sums[name] = max(before, value) if largest else before + value
            self.counts[name] = self.counts.get(name, 0) + other.counts[name]
        self.tokens += other.tokens
        self.positions += other.positions
        self.loss += other.loss

    def means(self) -> dict[str, float]:
        """By name: the mean over tokens, or the largest."""
        return {n: v if n.endswith("_max") else v / self.counts[n] for n, v in sorted(self.sums.items())}


def accumulate(
    policy: Policy, step: Step, temperature: float, tell: Callable[[int], None] = lambda responses: None
) -> tuple[Meter, Tensor]:
    """Add the gradient of the step's loss to the policy's masters; what was met, and log-probabilities [T].

    The latter are NaN where no forward pass was needed. Stops early when the loss is no longer finite.
    """
    meter = Meter()
    logp = torch.full((len(step.batch.sequence),), math.nan)
    live = step.live()
    responses = [step.responses[i] for i in live]
    places = offsets([len(response) for response in step.responses])
    starts = [places[i] for i in live]
    with policy.passes():
        plan = policy.plan([step.prompts[i] for i in live], responses)
        work = [functools.partial(_pass, policy, step, temperature, c, responses, starts) for c in plan]
        for chosen, part in zip(plan, lanes.in_order(policy.lanes, work), strict=True):
            logp[part.index] = part.logp
            meter.merge(part.meter)
            if not math.isfinite(meter.loss):
                break
            policy.weights.add_gradients(part.gradients)
            tell(sum(len(row.members) for row in chosen))
    return meter, logp


@dataclass(frozen=True)
class _Part:
    """What one micro-batch gives: its tokens' places and log-probabilities [t], and its gradients."""

    index: Tensor
    logp: Tensor
    meter: Meter
    gradients: Sequence[Tensor | None]


def _pass(
    policy: Policy,
    step: Step,
    temperature: float,
    chosen: list[rows.Row],
    responses: Sequence[rows.Ids],
    starts: Sequence[int],
) -> _Part:
    """Forward and backward pass over one micro-batch."""
    wants_entropy = any(term.needs_entropy and bool(term.scale.any()) for term in step.terms)
    words = step.batch.top if any(term.needs_top for term in step.terms) else None
    batch = rows.build(chosen, responses, starts, policy.layout.flat)
    others = None if words is None else words.ids[batch.index]
    out = policy.forward(batch, temperature, entropy=True, entropy_gradient=wants_entropy, others=others)
    entropy, top = (None if x is None else x.cpu() for x in (out.entropy, out.others))
    signals = Signals(out.logp.cpu(), entropy, top)
    meter = Meter(tokens=len(batch.index), positions=batch.input_ids.numel())
    loss = _loss(step.terms, signals, batch.index, meter)
    meter.loss = float(loss.detach())
    if entropy is not None:
        meter.add("entropy", entropy[step.batch.fresh[step.batch.sequence[batch.index]]])
    gradients: Sequence[Tensor | None] = ()
    if math.isfinite(meter.loss):
        gradients = torch.autograd.grad(loss, policy.weights.leaves(), allow_unused=True)
    return _Part(batch.index, signals.logp.detach().float(), meter, gradients)


def _loss(terms: Sequence[Term], signals: Signals, index: Tensor, meter: Meter) -> Tensor:
    """The micro-batch's part of the loss. The first term's metrics keep their names, others are prefixed."""
    total = signals.logp.new_zeros((), dtype=torch.float32)
    for place, term in enumerate(terms):
        scale = term.scale[index]
        own = scale.nonzero().squeeze(1)
        if not len(own):
            continue
        entropy = signals.entropy[own] if signals.entropy is not None and term.needs_entropy else None
        top = signals.top[own] if signals.top is not None and term.needs_top else None
        values, metrics = term.token_loss(Signals(signals.logp[own], entropy, top), index[own])
        total = total + (scale[own] * values).sum()
        for name, value in metrics.items():
            meter.add(name if place == 0 else f"{term.name}.{name}", value)
    return total
