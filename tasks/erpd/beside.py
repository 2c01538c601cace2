"""The base of a round beside other policies, at every token of some answers.

Hidden states are held of two policies at a time, and of as many answers as fit into ``BLOCK_BYTES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tasks.core.segments import Ids, counts, sampled_ids
from tasks.erpd.trust_region import Weights, copied, laid
from tasks.policy.full_vocabulary import PolicyStates, kl, policy_states
from tasks.policy.load import head_weight
from tasks.policy.policy import Policy

BLOCK_BYTES = 256 << 20
"""Of one policy's hidden states."""


@dataclass(frozen=True)
class Beside:
    """One policy, at T tokens of answers, and how far it is from the base there."""

    logp: Tensor
    """[T] of the sampled tokens."""
    from_base: Tensor
    """[T] KL(base | policy), over the whole vocabulary."""
    to_base: Tensor
    """[T] KL(policy | base)."""

    def divergence(self) -> dict[str, float]:
        """The two: means over the tokens, in nats."""
        means = {"from_base": self.from_base, "to_base": self.to_base}
        return {name: float(values.double().mean()) for name, values in means.items()}


def beside(
    policy: Policy,
    base: Path | None,
    others: Mapping[str, Path | None],
    prompts: Sequence[list[int]],
    responses: Sequence[Ids],
    temperature: float,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[Tensor, dict[str, Beside]]:
    """The base's log-probabilities [T] of the tokens of the ``responses``, and each other policy there.

    ``policy`` is what holds them, one after the other, and ends with the base. Two names of one folder are
    computed once.
    """
    folders = list(dict.fromkeys(others.values()))
    own: list[Tensor] = []
    found: dict[Path | None, list[Tensor]] = {folder: [] for folder in folders}
    for part in _blocks(responses, head_weight(policy.network), block_bytes):
        given = (prompts[part], responses[part])
        words = torch.tensor([token for response in given[1] for token in sampled_ids(response)])
        policy.restore(base)
        origin = policy_states(policy, *given, temperature)
        own.append(_of_words(origin, words))
        for folder in folders:
            policy.restore(folder)
            found[folder].append(_compared(origin, policy_states(policy, *given, temperature), words))
    policy.restore(base)
    whole = {folder: torch.cat(parts, 1) for folder, parts in found.items()}
    return torch.cat(own), {name: Beside(*whole[folder]) for name, folder in others.items()}


def divergence_from(
    policy: Policy,
    origin: Weights,
    prompts: Sequence[list[int]],
    responses: Sequence[Ids],
    temperature: float,
    block_bytes: int = BLOCK_BYTES,
) -> Callable[[], float]:
    """Measures KL(policy | origin), the mean over all tokens, in nats, of the weights that ``policy`` has
    when it is called; they stay. The origin's states are computed once where those of all answers fit, else
    anew for each block."""
    parts = list(_blocks(responses, head_weight(policy.network), block_bytes))
    kept: list[PolicyStates] = []

    def of_origin(part: slice) -> PolicyStates:
        now = copied(policy)
        laid(policy, origin)
        states = policy_states(policy, prompts[part], responses[part], temperature)
        laid(policy, now)
        return states

    def measure() -> float:
        if len(parts) == 1 and not kept:
            kept.append(of_origin(parts[0]))
        found = []
        for part in parts:
            base = kept[0] if kept else of_origin(part)
            found.append(
                kl(policy_states(policy, prompts[part], responses[part], temperature), base).double()
            )
        return float(torch.cat(found).mean())

    return measure


def kept_states(
    policy: Policy,
    folder: Path | None,
    prompts: Sequence[list[int]],
    responses: Sequence[Ids],
    temperature: float,
    place: Path,
    block_bytes: int = BLOCK_BYTES,
) -> PolicyStates:
    """The states of a policy at those tokens, in a file at ``place`` that is read where it is needed."""
    policy.restore(folder)
    weight = head_weight(policy.network)
    weight = weight.detach().clone() if weight.requires_grad else weight
    count = sum(counts(responses))
    size = max(count, 1) * weight.shape[1]
    hidden = torch.from_file(str(place), shared=True, size=size, dtype=weight.dtype).view(-1, weight.shape[1])
    start = 0
    for part in _blocks(responses, weight, block_bytes):
        states = policy_states(policy, prompts[part], responses[part], temperature).hidden
        hidden[start : start + len(states)] = states
        start += len(states)
    return PolicyStates(hidden[:count], weight, temperature)


def _blocks(responses: Sequence[Ids], weight: Tensor, block_bytes: int) -> Iterator[slice]:
    """All answers, as many at a time as have that many bytes of hidden states, but at least one."""
    room = block_bytes // (weight.shape[1] * weight.element_size())
    start = held = 0
    for place, length in enumerate(counts(responses)):
        if place > start and held + length > room:
            yield slice(start, place)
            start, held = place, 0
        held += length
    yield slice(start, len(responses))


@torch.no_grad()
def _of_words(states: PolicyStates, words: Tensor) -> Tensor:
    """Log-probabilities [t] of those tokens."""
    parts = [_chosen(states.logp(at), words[at]) for at in states.chunks()]
    return torch.cat(parts) if parts else torch.empty(0)


@torch.no_grad()
def _compared(base: PolicyStates, other: PolicyStates, words: Tensor) -> Tensor:
    """[3, t] of the other policy: its tokens' log-probabilities, KL(base | other) and KL(other | base)."""
    parts = []
    for at in base.chunks():
        origin, own = base.logp(at), other.logp(at)
        away = (origin.exp() * (origin - own)).sum(-1)
        back = (own.exp() * (own - origin)).sum(-1)
        parts.append(torch.stack([_chosen(own, words[at]), away.cpu(), back.cpu()]))
    return torch.cat(parts, 1) if parts else torch.empty(3, 0)


def _chosen(logp: Tensor, words: Tensor) -> Tensor:
    return logp.gather(1, words[:, None].to(logp.device))[:, 0].cpu()
