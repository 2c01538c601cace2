"""The gradient of one optimiser step: the loss's terms summed over micro-batches, however these are cut."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from algorithms.terms import Batch, Signals, Term
from tasks.core.segments import Ids, beginning, counts
from tasks.policy import distributed, packing, threads
from tasks.policy.policy import Policy, offsets


@dataclass(frozen=True)
class Step:
    """What one optimiser step learns from: S responses, their sampled tokens end to end, and terms."""

    prompts: Sequence[Ids]
    responses: Sequence[Ids]
    batch: Batch
    terms: Sequence[Term]
    objectives: int = 1
    """So many of the terms, from the first on, have metrics that keep their names."""

    def live(self) -> dict[int, int]:
        """The responses that can change the gradient, those with a token on which some term's scale is not 0,
        by place; each with the number of its sampled tokens up to the last such one."""
        scaled = torch.zeros(len(self.batch.sequence), dtype=torch.bool)
        for term in self.terms:
            scaled |= term.scale != 0
        starts = torch.tensor(offsets(counts(self.responses)), dtype=torch.int64)
        at = scaled.nonzero().squeeze(1)
        response = self.batch.sequence[at]
        ends = torch.zeros_like(starts).scatter_reduce_(0, response, at + 1 - starts[response], "amax")
        return {i: end for i, end in enumerate(ends.tolist()) if end}


@dataclass
class Meter:
    """Sums of per-token values by name, for their means; maxima for names that end in ``_max``.

    ``tokens`` counts response tokens, ``positions`` all positions of the forward passes, padding included.
    """

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    by_age: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """By name, such as ``drift``, and by age in rounds: the sum of replayed tokens' values, and how many."""
    tokens: int = 0
    positions: int = 0
    loss: float = 0.0

    def add(self, name: str, values: Tensor) -> None:
        """Take in values [t]."""
        if len(values):
            exact = values.detach().double()
            value = exact.max() if name.endswith("_max") else exact.sum()
            self.merge(Meter({name: float(value)}, {name: len(values)}))

    def add_by_age(self, name: str, values: Tensor, ages: Tensor) -> None:
        """Take in values [t] of responses that are ``ages`` [t] rounds old."""
        for age in torch.unique(ages).tolist():
            mine = values[ages == age].detach().double()
            self.merge(Meter(by_age={name: {str(age): [float(mine.sum()), len(mine)]}}))

    def merge(self, other: Meter) -> None:
        """Take in another meter's values."""
        for name, ages in other.by_age.items():
            known = self.by_age.setdefault(name, {})
            for age, (total, count) in ages.items():
                mine = known.get(age, [0.0, 0.0])
                known[age] = [mine[0] + total, mine[1] + count]
        for name, value in other.sums.items():
            largest = name.endswith("_max")
            before = self.sums.get(name, -math.inf if largest else 0.0)
            self.sums[name] = max(before, value) if largest else before + value
            self.counts[name] = self.counts.get(name, 0) + other.counts[name]
        self.tokens += other.tokens
        self.positions += other.positions
        self.loss += other.loss

    def means_by_age(self) -> dict[str, dict[str, float]]:
        """By name the mean by age, the youngest first."""
        return {
            name: {age: ages[age][0] / ages[age][1] for age in sorted(ages, key=int)}
            for name, ages in sorted(self.by_age.items())
        }

    def means(self) -> dict[str, float]:
        """By name: the mean over tokens, or the largest."""
        return {n: v if n.endswith("_max") else v / self.counts[n] for n, v in sorted(self.sums.items())}


def accumulate(
    policy: Policy,
    step: Step,
    temperature: float,
    tell: Callable[[int], None] = lambda responses: None,
    apart: bool = False,
) -> tuple[Meter, Tensor]:
    """Add the gradient of the step's loss to the policy's masters; its metrics, and log-probabilities [T].

    The latter are NaN where no forward pass was needed. Stops early when the loss is no longer finite. With
    ``apart`` the gradient of each term is measured apart from the others': ``TERM.grad_norm``, and
    ``TERM.grad_share`` of the sum of these norms. After each micro-batch ``tell`` gets its
    count of responses.
    """
    meter = Meter()
    nothing = [torch.zeros((), dtype=torch.float64)] * len(policy.weights.leaves())
    by_term = {term.name: nothing for term in step.terms} if apart else {}
    logp = torch.full((len(step.batch.sequence),), math.nan)
    live = step.live()
    responses = [beginning(step.responses[i], end) for i, end in live.items()]
    places = offsets(counts(step.responses))
    starts = [places[i] for i in live]
    with policy.passes():
        plan = policy.plan([step.prompts[i] for i in live], responses)
        mine = distributed.assigned(len(plan))
        one = functools.partial(_forward_backward, policy, step, temperature, responses, starts, apart)
        jobs = [functools.partial(one, plan[each.micro_batch], each.dummy) for each in mine]
        meters: list[Meter] = []
        for each, part in zip(mine, threads.map_in_order(policy.thread_count, jobs), strict=True):
            if not each.dummy:
                logp[part.index] = part.logp
            meters.append(part.meter)
            if not math.isfinite(part.meter.loss) and distributed.world_size() == 1:
                break
            policy.weights.add_gradients(part.gradients)
            for name, gradients in part.by_term.items():
                both = zip(by_term[name], gradients, strict=True)
                by_term[name] = [x if g is None else x.to(g.device) + g.double() for x, g in both]
            tell(_responses_done(plan, each))
    for known in distributed.gather_in_order([asdict(one) for one in meters]):
        meter.merge(Meter(**known))
    _add_norms(meter, by_term)
    return meter, distributed.reduce_known(logp)


def _responses_done(plan: Sequence[Sequence[packing.Row]], mine: distributed.Assignment) -> int:
    """Responses in the micro-batches that all ranks together computed while this rank computed ``mine``."""
    ranks = distributed.world_size()
    first = len(plan) // ranks * ranks if mine.dummy else mine.micro_batch - distributed.rank()
    return sum(len(row.members) for chosen in plan[first : first + ranks] for row in chosen)


def _add_norms(meter: Meter, by_term: dict[str, list[Tensor]]) -> None:
    norms = {name: math.sqrt(sum(float(x.square().sum()) for x in sums)) for name, sums in by_term.items()}
    for name, norm in norms.items():
        meter.add(f"{name}.grad_norm", torch.tensor([norm]))
        if any(norms.values()):
            meter.add(f"{name}.grad_share", torch.tensor([norm / sum(norms.values())]))


@dataclass(frozen=True)
class _Result:
    """What a micro-batch of t tokens gives; ``index`` [t] are their places among all tokens."""

    index: Tensor
    logp: Tensor
    meter: Meter
    gradients: Sequence[Tensor | None]
    by_term: dict[str, Sequence[Tensor | None]]
    """The gradients of each term alone, where asked for."""


def _forward_backward(
    policy: Policy,
    step: Step,
    temperature: float,
    responses: Sequence[Ids],
    starts: Sequence[int],
    apart: bool,
    chosen: list[packing.Row],
    dummy: bool,
) -> _Result:
    """Forward and backward pass over one micro-batch; the gradients of a dummy are zero."""
    wants_entropy = any(term.needs_entropy and bool(term.scale.any()) for term in step.terms)
    top = step.batch.top if any(term.needs_top for term in step.terms) else None
    batch = packing.build(chosen, responses, starts, policy.layout.flat)
    others = None if top is None else top.ids[batch.index]
    out = policy.forward(batch, temperature, entropy=True, entropy_gradient=wants_entropy, others=others)
    entropy, top_logp = (None if x is None else x.cpu() for x in (out.entropy, out.others))
    signals = Signals(out.logp.cpu(), entropy, top_logp)
    if dummy:
        nothing = policy.weights.gradients(0.0 * signals.logp.sum())
        return _Result(batch.index, signals.logp, Meter(), nothing, {})
    meter = Meter(tokens=len(batch.index), positions=batch.input_ids.numel())
    losses = _losses(step, signals, batch.index, meter)
    loss = sum(losses.values(), signals.logp.new_zeros((), dtype=torch.float32))
    meter.loss = float(loss.detach())
    if entropy is not None:
        meter.add("entropy", entropy[step.batch.fresh[step.batch.sequence[batch.index]]])
    gradients: Sequence[Tensor | None] = ()
    own: dict[str, Sequence[Tensor | None]] = {}
    # Other ranks wait for this one's backward pass.
    if math.isfinite(meter.loss) or distributed.world_size() > 1:
        leaves = policy.weights.leaves()
        if apart:
            for name, part in losses.items():
                own[name] = torch.autograd.grad(part, leaves, retain_graph=True, allow_unused=True)
        gradients = policy.weights.gradients(loss)
    return _Result(batch.index, signals.logp.detach().float(), meter, gradients, own)


def _own(term: Term, scale: Tensor, sequence: Tensor) -> Tensor:
    """Places of the tokens [t] that a term is given: those it chose, or all of the same responses."""
    chosen = scale != 0
    if term.whole:
        chosen = torch.isin(sequence, sequence[chosen])
    return chosen.nonzero().squeeze(1)


def _losses(step: Step, signals: Signals, index: Tensor, meter: Meter) -> dict[str, Tensor]:
    """By term: the micro-batch's part of its loss, for terms that have a token in it.

    The objectives' metrics keep their names, the others' are prefixed with the term's; those of a task's term
    are told of the task too.
    """
    found: dict[str, Tensor] = {}
    for place, term in enumerate(step.terms):
        scale = term.scale[index]
        own = _own(term, scale, step.batch.sequence[index])
        if not len(own):
            continue
        entropy = signals.entropy[own] if signals.entropy is not None and term.needs_entropy else None
        top = signals.top[own] if signals.top is not None and term.needs_top else None
        values, metrics = term.token_loss(Signals(signals.logp[own], entropy, top), index[own])
        part = (scale[own] * values).sum()
        found[term.name] = found[term.name] + part if term.name in found else part
        for name, value in metrics.items():
            told_as = name if place < step.objectives else f"{term.name}.{name}"
            for before in ("", f"{term.task}.") if term.task else ("",):
                meter.add(f"{before}{told_as}", value)
        if step.batch.age is not None:
            told = {name: name for name in term.by_age} | ({"drift": term.drift} if term.drift else {})
            for name, metric in told.items():
                meter.add_by_age(name, metrics[metric], step.batch.age[step.batch.sequence[index[own]]])
    return found
