"""From hidden states to log-probabilities, entropies and rank probabilities, never holding all logits.

    z = h W^T / T,   log p(y) = z_y - logsumexp(z),   H = -sum_v p_v log p_v

A token's log-probability depends on one hidden state alone, so its derivative is a single vector,

    d log p(y) / dh = (e_y - p) W / T,        dH / dh = -(p * (log p + H)) W / T,

which the forward pass computes while the chunk's logits are there; the backward pass multiplies. Where the
head's weights train, their gradient is made from logits that the backward pass computes again.

The products take a chunk of positions at once. What comes after them passes over all words several times, and
takes as many positions of the chunk as stay in a CPU's caches; a GPU takes the chunk whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_BYTES = 24 << 20
"""Logits of a chunk on a CPU."""
SLICE_BYTES = 1 << 20
"""Logits that a CPU passes over while they stay in its caches."""


class HeadOutput(NamedTuple):
    """Per token: ``logp`` and ``entropy`` [t] in nats, ``ranks`` [t, k] the largest probabilities, ``others``
    [t, n] the log-probabilities of the words that were asked for."""

    logp: Tensor
    entropy: Tensor | None
    ranks: Tensor | None
    others: Tensor | None = None


def head(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    temperature: float,
    chunk: int,
    *,
    entropy: bool = False,
    entropy_gradient: bool = False,
    ranks: int = 0,
    others: Tensor | None = None,
) -> HeadOutput:
    """Score ``target`` [t] under ``hidden`` [t, H] and ``weight`` [V, H], at most ``chunk`` tokens at a time.

    Log-sum-exp and results are float32 (float64 for float64 inputs). ``logp`` is differentiable in ``hidden``
    and ``weight``; so is ``entropy`` with ``entropy_gradient``. ``others`` [t, n] int64 are words whose
    log-probabilities are wanted too, without gradient.
    """
    entropy = entropy or entropy_gradient
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if others is None:
        others = target.new_empty(len(target), 0)
    options = (temperature, chunk, entropy, entropy_gradient and wanted, ranks, wanted)
    logp, spread, top, more = _Head.apply(hidden, weight, target, others, *options)
    return HeadOutput(
        logp, spread if entropy else None, top if ranks else None, more if more.shape[1] else None
    )


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        others: Tensor,
        temperature: float,
        chunk: int,
        entropy: bool,
        entropy_gradient: bool,
        ranks: int,
        wanted: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        logp = hidden.new_empty(len(target), dtype=exact)
        spread = hidden.new_empty(len(target) if entropy else 0, dtype=exact)
        top = hidden.new_empty((len(target), ranks), dtype=exact)
        more = hidden.new_empty(others.shape, dtype=exact)
        slope = torch.empty_like(hidden) if wanted else None
        bend = torch.empty_like(hidden) if entropy_gradient else None
        words = _Words(weight, temperature, chunk, exact, bool(entropy_gradient))
        for part in words.chunks(len(target)):
            for rows, at in words.slices(hidden, part):
                logp[at] = words.logp(target[at, None]).squeeze(1)
                more[at] = words.logp(others[at])
                if ranks:
                    top[at] = words.largest(ranks)
                if entropy:
                    spread[at] = words.entropy()
                if bend is not None:
                    words.bend[rows] = words.entropy_slope(spread[at])
                if slope is not None:
                    words.logits[rows] = words.slope(target[at])
            count = part.stop - part.start
            if bend is not None:
                bend[part] = words.bend[:count] @ weight
            if slope is not None:
                slope[part] = words.logits[:count] @ weight
        ctx.save_for_backward(hidden, weight, target, spread, slope, bend)
        ctx.options = (temperature, chunk, exact)
        ctx.mark_non_differentiable(top, more)
        if not entropy_gradient:
            ctx.mark_non_differentiable(spread)
        return logp, spread, top, more

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        grad_logp, grad_spread, _, _ = grads
        hidden, weight, target, spread, slope, bend = ctx.saved_tensors
        temperature, chunk, exact = ctx.options
        to_hidden = to_weight = None
        if ctx.needs_input_grad[0]:
            to_hidden = slope * grad_logp[:, None].to(slope.dtype)
            if bend is not None:
                to_hidden += bend * grad_spread[:, None].to(slope.dtype)
        if ctx.needs_input_grad[1]:
            to_weight = torch.zeros_like(weight, dtype=exact)
            words = _Words(weight, temperature, chunk, exact, False)
            for part in words.chunks(len(target)):
                for rows, at in words.slices(hidden, part):
                    curved = 0.0 if bend is None else words.entropy_slope(spread[at]) * grad_spread[at, None]
                    words.logits[rows] = words.slope(target[at]) * grad_logp[at, None] + curved
                to_weight += words.logits[: part.stop - part.start].T @ hidden[part]
            to_weight = to_weight.to(weight.dtype)
        return to_hidden, to_weight, *(None,) * 8


class _Words:
    """The distribution over V words of a slice of positions at a time, in buffers made once.

    ``logits`` [chunk, V] holds a chunk's, in the weights' type; a slice that is done may be overwritten.
    """

    def __init__(
        self, weight: Tensor, temperature: float, chunk: int, exact: torch.dtype, entropy_gradient: bool
    ) -> None:
        self.weight, self.temperature = weight, temperature
        words, cpu = len(weight), weight.device.type == "cpu"
        self.chunk = min(chunk, max(CHUNK_BYTES // (words * weight.element_size()), 1)) if cpu else chunk
        self.rows = min(self.chunk, max(SLICE_BYTES // (words * exact.itemsize), 1)) if cpu else self.chunk
        self.logits = weight.new_empty(self.chunk, words)
        self.bend = weight.new_empty(self.chunk if entropy_gradient else 0, words)
        shape = (3, self.rows, words)
        self._shifted, self._powers, self._spare = weight.new_empty(shape, dtype=exact)
        self._z, self._e, self._total = self._shifted, self._powers, self._powers

    def chunks(self, count: int) -> Iterator[slice]:
        """Positions 0 to ``count``, a chunk at a time."""
        return (slice(i, min(i + self.chunk, count)) for i in range(0, count, self.chunk))

    def slices(self, hidden: Tensor, part: slice) -> Iterator[tuple[slice, slice]]:
        """Go through a chunk: a slice's rows in ``logits``, and its positions."""
        count = part.stop - part.start
        torch.mm(hidden[part], self.weight.T, out=self.logits[:count])
        for first in range(0, count, self.rows):
            rows = slice(first, min(first + self.rows, count))
            self._take(self.logits[rows])
            yield rows, slice(part.start + rows.start, part.start + rows.stop)

    def _take(self, logits: Tensor) -> None:
        self._z, self._e = self._shifted[: len(logits)], self._powers[: len(logits)]
        self._z.copy_(logits)
        if self.temperature != 1.0:
            self._z.div_(self.temperature)
        self._z.sub_(self._z.amax(1, keepdim=True))
        torch.exp(self._z, out=self._e)
        self._total = self._e.sum(1, keepdim=True)

    def logp(self, words: Tensor) -> Tensor:
        """Of ``words`` [r, n]: [r, n]."""
        return self._z.gather(1, words) - self._total.log()

    def largest(self, count: int) -> Tensor:
        """The largest probabilities [r, count], falling."""
        return self._e.topk(count, dim=1).values / self._total

    def entropy(self) -> Tensor:
        """[r] nats: log sum e^z - sum p z."""
        products = torch.mul(self._e, self._z, out=self._spare[: len(self._e)])
        return (self._total.log() - products.sum(1, keepdim=True) / self._total).squeeze(1)

    def entropy_slope(self, entropy: Tensor) -> Tensor:
        """dH / dz, divided by the temperature [r, V], until the next is asked for."""
        offset = entropy[:, None] - self._total.log()
        surprise = torch.add(self._z, offset, out=self._spare[: len(self._z)])
        return surprise.mul_(self._e).mul_(-1.0 / (self._total * self.temperature))

    def slope(self, target: Tensor) -> Tensor:
        """(e_y - p) / T [r, V], in place of the powers, which are gone: the last to be asked for."""
        rest = self._e.mul_(-1.0 / (self._total * self.temperature))
        rest[torch.arange(len(target), device=rest.device), target] += 1.0 / self.temperature
        return rest
