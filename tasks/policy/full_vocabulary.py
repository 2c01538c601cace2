"""Several policies' log-probabilities over the whole vocabulary at the same positions, and KL between them.

A ``Policy`` holds one set of weights at a time; a divergence between two policies needs both. Their hidden
states [T, H] are kept in the host's memory, 2 T H bytes each in bfloat16, and the log-probabilities [t, V] of
a chunk of positions are computed when they are needed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tasks.core.segments import Ids, counts
from tasks.policy import packing, threads
from tasks.policy.gradient import Meter
from tasks.policy.hidden_states import batch_states
from tasks.policy.load import head_weight
from tasks.policy.policy import Policy, offsets

CHUNK_BYTES = 16 << 20
"""Size of one policy's log-probabilities at a chunk of positions, on a CPU."""
GPU_CHUNK_BYTES = 256 << 20

Target = Callable[[Tensor], Tensor]
"""Places [t] of positions to log-probabilities [t, V] there."""


@dataclass(frozen=True)
class PolicyStates:
    """One policy's hidden states at T positions, from which its log-probabilities follow."""

    hidden: Tensor
    """[T, H] in the base type, on the CPU."""
    weight: Tensor
    """[V, H], the head's."""
    temperature: float

    def logp(self, index: Tensor | slice) -> Tensor:
        """Log-probabilities [t, V] at some positions, float32, on the head's device."""
        hidden = self.hidden[index].to(self.weight.device)
        return _logp(hidden, self.weight, self.temperature)

    def of(self, responses: Sequence[Ids], chosen: Sequence[int]) -> PolicyStates:
        """The states of some of the ``responses`` that it was made for, by place."""
        parts = torch.split(self.hidden, counts(responses))
        return PolicyStates(torch.cat([parts[i] for i in chosen]), self.weight, self.temperature)

    def chunks(self) -> Iterator[slice]:
        """All positions, a chunk at a time."""
        size = _chunk(self.weight)
        return (slice(i, min(i + size, len(self.hidden))) for i in range(0, len(self.hidden), size))


@torch.no_grad()
def policy_states(
    policy: Policy, prompts: Sequence[Ids], responses: Sequence[Ids], temperature: float
) -> PolicyStates:
    """The states of the policy as it is now, at every token of the responses laid end to end."""
    head = head_weight(policy.network)
    lengths = counts(responses)
    starts = offsets(lengths)
    hidden = torch.empty(sum(lengths), head.shape[1], dtype=head.dtype)

    def states_of(chosen: list[packing.Row]) -> tuple[Tensor, Tensor]:
        batch = packing.build(chosen, responses, starts, policy.layout.flat)
        return batch.index, _states(policy, batch).cpu()

    with policy.passes():
        jobs = [functools.partial(states_of, chosen) for chosen in policy.plan(prompts, responses)]
        for index, part in threads.map_in_order(policy.thread_count, jobs):
            hidden[index] = part
    return PolicyStates(hidden, head.detach().clone() if head.requires_grad else head, temperature)


@torch.no_grad()
def kl(one: PolicyStates, other: PolicyStates) -> Tensor:
    """KL(one | other) in nats at each position [T], float32, over the whole vocabulary."""
    parts = []
    for at in one.chunks():
        logp = one.logp(at)
        parts.append((logp.exp() * (logp - other.logp(at))).sum(-1).cpu())
    return torch.cat(parts).clamp(min=0.0) if parts else torch.empty(0)


def add_kl_gradient(
    policy: Policy,
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    places: Sequence[int],
    target: Target,
    temperature: float,
) -> Meter:
    """Add the gradient of mean KL(policy | target) over the responses' positions to the policy's masters.

    ``target`` gets the positions' places, where those of response i begin at ``places[i]``. The meter has the
    sum of ``distance``, KL in nats; the pass stops early when the loss is no longer finite.
    """
    meter = Meter()
    count = sum(counts(responses))

    def forward_backward(chosen: list[packing.Row]) -> tuple[Meter, Sequence[Tensor | None]]:
        batch = packing.build(chosen, responses, places, policy.layout.flat)
        part = Meter(tokens=len(batch.index), positions=batch.input_ids.numel())
        hidden = _states(policy, batch)
        weight = head_weight(policy.network)
        size = _chunk(weight)
        total = hidden.new_zeros((), dtype=torch.float32)
        for rows, index in zip(hidden.split(size), batch.index.split(size), strict=True):
            found = checkpoint(_distance, rows, weight, target(index), temperature, use_reentrant=False)
            part.add("distance", found.cpu())
            total = total + found.sum() / count
        part.loss = float(total.detach())
        if not math.isfinite(part.loss):
            return part, ()
        return part, policy.weights.gradients(total)

    with policy.passes():
        jobs = [functools.partial(forward_backward, chosen) for chosen in policy.plan(prompts, responses)]
        for part, gradients in threads.map_in_order(policy.thread_count, jobs):
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
    return (
        batch_states(policy.network, moved, policy.attention).flatten(0, 1).index_select(0, moved.predictor)
    )


def _chunk(weight: Tensor) -> int:
    budget = CHUNK_BYTES if weight.device.type == "cpu" else GPU_CHUNK_BYTES
    return max(budget // (4 * len(weight)), 1)
