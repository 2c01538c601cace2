"""What policies say of the whole vocabulary at the same positions: kept as hidden states, made a chunk at a
time.

A policy holds one set of weights at a time; divergences between two policies need both. Their hidden states
[T, H] are kept in the processor's memory, 2 T H bytes each in bfloat16, and the log-probabilities [t, V] of a
few positions are made when they are needed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tasks.policy import packing, threads
from tasks.policy.gradient import Meter
from tasks.policy.hidden_states import states
from tasks.policy.policy import Policy, offsets

CHUNK_BYTES = 16 << 20
"""Log-probabilities of one policy at a chunk of positions on a CPU."""
GPU_CHUNK_BYTES = 256 << 20

Target = Callable[[Tensor], Tensor]
"""Positions [t] to log-probabilities [t, V]."""


@dataclass(frozen=True)
class Held:
    """One policy at T positions."""

    hidden: Tensor
    """[T, H] in the base type, on the CPU."""
    weight: Tensor
    """[V, H] the head's."""
    temperature: float

    def logp(self, index: Tensor | slice) -> Tensor:
        """Log-probabilities [t, V] of those positions, float32, where the head is."""
        hidden = self.hidden[index].to(self.weight.device)
        return _logp(hidden, self.weight, self.temperature)

    def of(self, responses: Sequence[packing.Ids], chosen: Sequence[int]) -> Held:
        """The same at some of the responses that it was made for."""
        parts = self.hidden.split([len(response) for response in responses])
        return Held(torch.cat([parts[i] for i in chosen]), self.weight, self.temperature)

    def chunks(self) -> Iterator[slice]:
        """All positions, a few at a time."""
        size = _chunk(self.weight)
        return (slice(i, min(i + size, len(self.hidden))) for i in range(0, len(self.hidden), size))


@torch.no_grad()
def hold(
    policy: Policy, prompts: Sequence[packing.Ids], responses: Sequence[packing.Ids], temperature: float
) -> Held:
    """The policy as it is now, at every token of the responses laid end to end."""
    head = policy.network.get_output_embeddings().weight
    lengths = [len(response) for response in responses]
    starts = offsets(lengths)
    hidden = torch.empty(sum(lengths), head.shape[1], dtype=head.dtype)

    def seen(chosen: list[packing.Row]) -> tuple[Tensor, Tensor]:
        batch = packing.build(chosen, responses, starts, policy.layout.flat)
        return batch.index, _states(policy, batch).cpu()

    with policy.passes():
        work = [functools.partial(seen, chosen) for chosen in policy.plan(prompts, responses)]
        for index, part in threads.in_order(policy.lanes, work):
            hidden[index] = part
    return Held(hidden, head.detach().clone() if head.requires_grad else head, temperature)


@torch.no_grad()
def divergence(one: Held, other: Held) -> Tensor:
    """KL(one | other) at each position [T], float32, over the whole vocabulary."""
    parts = []
    for at in one.chunks():
        logp = one.logp(at)
        parts.append((logp.exp() * (logp - other.logp(at))).sum(-1).cpu())
    return torch.cat(parts).clamp(min=0.0) if parts else torch.empty(0)


def approach(
    policy: Policy,
    prompts: Sequence[packing.Ids],
    responses: Sequence[packing.Ids],
    places: Sequence[int],
    target: Target,
    temperature: float,
) -> Meter:
    """Add the gradient of mean KL(policy | target) over the responses' positions to the policy's masters.

    ``target`` is asked with places of the positions: response i's begin at ``places[i]``.
    """
    meter = Meter()
    count = sum(len(response) for response in responses)

    def work(chosen: list[packing.Row]) -> tuple[Meter, Sequence[Tensor | None]]:
        batch = packing.build(chosen, responses, places, policy.layout.flat)
        part = Meter(tokens=len(batch.index), positions=batch.input_ids.numel())
        hidden = _states(policy, batch)
        weight = policy.network.get_output_embeddings().weight
        size = _chunk(weight)
        total = hidden.new_zeros((), dtype=torch.float32)
        for first in range(0, len(hidden), size):
            at = slice(first, first + size)
            goal = target(batch.index[at])
            found = checkpoint(_distance, hidden[at], weight, goal, temperature, use_reentrant=False)
            part.add("distance", found.cpu())
            total = total + found.sum() / count
        part.loss = float(total.detach())
        if not math.isfinite(part.loss):
            return part, ()
        return part, policy.weights.gradients(total)

    with policy.passes():
        plan = [functools.partial(work, chosen) for chosen in policy.plan(prompts, responses)]
        for part, gradients in threads.in_order(policy.lanes, plan):
            meter.merge(part)
            if not math.isfinite(meter.loss):
                break
            policy.weights.add_gradients(gradients)
    return meter


def _distance(hidden: Tensor, weight: Tensor, target: Tensor, temperature: float) -> Tensor:
    """KL(policy | target) at each position [t]."""
    logp = _logp(hidden, weight, temperature)
    return (logp.exp() * (logp - target)).sum(-1)


def _logp(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    return ((hidden @ weight.T).float() / temperature).log_softmax(-1)


def _states(policy: Policy, batch: packing.MicroBatch) -> Tensor:
    """The hidden states [t, H] from which a micro-batch's response tokens are predicted."""
    moved = batch.to(policy.device)
    return states(policy.network, moved, policy.by_flex).flatten(0, 1).index_select(0, moved.at)


def _chunk(weight: Tensor) -> int:
    budget = CHUNK_BYTES if weight.device.type == "cpu" else GPU_CHUNK_BYTES
    return max(budget // (4 * len(weight)), 1)
