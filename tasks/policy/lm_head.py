"""From hidden states to log-probabilities, entropies and rank probabilities, never holding all logits.

    z = h W^T / T,   log p(y) = z_y - logsumexp(z),   H = -sum_v p_v log p_v

A token's log-probability depends on one hidden state alone, so its derivative is one vector,

    d log p(y) / dh = (e_y - p) W / T,        dH / dh = -(p * (log p + H)) W / T,

which the forward pass computes while the chunk's logits are in memory; the backward pass multiplies it with
the incoming gradient. Where the head's weights train, the backward pass computes the logits again for theirs.

The products take a chunk of positions at once. What follows reads the logits several times, and takes as
many positions of the chunk as stay in a CPU's caches; a GPU takes the whole chunk, in one kernel where it can
compile one (``lm_head_fused.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tasks.core.device import can_compile
from tasks.policy.lm_head_fused import fused_head

CHUNK_BYTES = 24 << 20
"""Size of a chunk's logits on a CPU."""
SLICE_BYTES = 1 << 20
"""Size of a slice's logits on a CPU, which stay in its caches."""


class HeadOutput(NamedTuple):
    """Per token: ``logp`` and ``entropy`` [t] in nats, ``ranks`` [t, k] the largest probabilities, ``others``
    [t, n] the log-probabilities of the other tokens that were asked for; None where not asked for."""

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
    and ``weight``; so is ``entropy`` with ``entropy_gradient``. ``others`` [t, n] int64 are further
    token ids whose log-probabilities are wanted too, without gradient.
    """
    entropy = entropy or entropy_gradient
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if hidden.is_cuda and can_compile() and not ranks and others is None and len(target):
        both = entropy_gradient and wanted
        logp, entropies = fused_head(hidden, weight, target, temperature, chunk, both, wanted)
        return HeadOutput(logp, entropies if entropy else None, None)
    if others is None:
        others = target.new_empty(len(target), 0)
    options = (temperature, chunk, entropy, entropy_gradient and wanted, ranks, wanted)
    apply: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = _Head.apply
    logp, entropies, top, more = apply(hidden, weight, target, others, *options)
    return HeadOutput(
        logp, entropies if entropy else None, top if ranks else None, more if more.shape[1] else None
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
        entropies = hidden.new_empty(len(target) if entropy else 0, dtype=exact)
        top = hidden.new_empty((len(target), ranks), dtype=exact)
        more = hidden.new_empty(others.shape, dtype=exact)
        d_logp = torch.empty_like(hidden) if wanted else None
        d_entropy = torch.empty_like(hidden) if entropy_gradient else None
        softmax = _Softmax(weight, temperature, chunk, exact, bool(entropy_gradient))
        for part in softmax.chunks(len(target)):
            for rows, at in softmax.slices(hidden, part):
                logp[at] = softmax.logp(target[at, None]).squeeze(1)
                more[at] = softmax.logp(others[at])
                if ranks:
                    top[at] = softmax.largest(ranks)
                if entropy:
                    entropies[at] = softmax.entropy()
                if d_entropy is not None:
                    softmax.entropy_terms[rows] = softmax.entropy_derivative(entropies[at])
                if d_logp is not None:
                    softmax.logits[rows] = softmax.logp_derivative(target[at])
            count = part.stop - part.start
            if d_entropy is not None:
                d_entropy[part] = softmax.entropy_terms[:count] @ weight
            if d_logp is not None:
                d_logp[part] = softmax.logits[:count] @ weight
        ctx.save_for_backward(hidden, weight, target, entropies, d_logp, d_entropy)
        ctx.options = (temperature, chunk, exact)
        ctx.mark_non_differentiable(top, more)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return logp, entropies, top, more

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        grad_logp, grad_entropies, _, _ = grads
        hidden, weight, target, entropies, d_logp, d_entropy = ctx.saved_tensors
        temperature, chunk, exact = ctx.options
        to_hidden = to_weight = None
        if ctx.needs_input_grad[0]:
            to_hidden = d_logp * grad_logp[:, None].to(d_logp.dtype)
            if d_entropy is not None:
                to_hidden += d_entropy * grad_entropies[:, None].to(d_logp.dtype)
        if ctx.needs_input_grad[1]:
            to_weight = torch.zeros_like(weight, dtype=exact)
            softmax = _Softmax(weight, temperature, chunk, exact, False)
            for part in softmax.chunks(len(target)):
                for rows, at in softmax.slices(hidden, part):
                    from_entropy: Tensor | float = 0.0
                    if d_entropy is not None:
                        from_entropy = softmax.entropy_derivative(entropies[at]) * grad_entropies[at, None]
                    from_logp = softmax.logp_derivative(target[at]) * grad_logp[at, None]
                    softmax.logits[rows] = from_logp + from_entropy
                to_weight += softmax.logits[: part.stop - part.start].T @ hidden[part]
            to_weight = to_weight.to(weight.dtype)
        return to_hidden, to_weight, *(None,) * 8


class _Softmax:
    """The distribution over a vocabulary of V, for a slice of positions at a time, in buffers made once.

    ``logits`` [chunk, V] are a chunk's, in the weights' type; a slice that is done may be overwritten.
    ``entropy_terms``: room for their entropies' derivatives.
    """

    def __init__(
        self, weight: Tensor, temperature: float, chunk: int, exact: torch.dtype, entropy_gradient: bool
    ) -> None:
        self.weight, self.temperature = weight, temperature
        size, cpu = len(weight), weight.device.type == "cpu"
        self.chunk = min(chunk, max(CHUNK_BYTES // (size * weight.element_size()), 1)) if cpu else chunk
        self.rows = min(self.chunk, max(SLICE_BYTES // (size * exact.itemsize), 1)) if cpu else self.chunk
        self.logits = weight.new_empty(self.chunk, size)
        self.entropy_terms = weight.new_empty(self.chunk if entropy_gradient else 0, size)
        self._buffers = weight.new_empty((3, self.rows, size), dtype=exact)
        self._z, self._e, self._spare = self._buffers.unbind()
        self._total = self._e

    def chunks(self, count: int) -> Iterator[slice]:
        """Positions 0 to ``count``, a chunk at a time."""
        return (slice(i, min(i + self.chunk, count)) for i in range(0, count, self.chunk))

    def slices(self, hidden: Tensor, part: slice) -> Iterator[tuple[slice, slice]]:
        """Compute a chunk slice by slice: the slice's rows in ``logits``, and its positions."""
        count = part.stop - part.start
        torch.mm(hidden[part], self.weight.T, out=self.logits[:count])
        for first in range(0, count, self.rows):
            rows = slice(first, min(first + self.rows, count))
            self._take(self.logits[rows])
            yield rows, slice(part.start + rows.start, part.start + rows.stop)

    def _take(self, logits: Tensor) -> None:
        self._z, self._e, self._spare = self._buffers[:, : len(logits)].unbind()
        self._z.copy_(logits)
        if self.temperature != 1.0:
            self._z.div_(self.temperature)
        self._z.sub_(self._z.amax(1, keepdim=True))
        torch.exp(self._z, out=self._e)
        self._total = self._e.sum(1, keepdim=True)

    def logp(self, ids: Tensor) -> Tensor:
        """Log-probabilities [r, n] of token ids [r, n]."""
        return self._z.gather(1, ids) - self._total.log()

    def largest(self, count: int) -> Tensor:
        """The largest probabilities [r, count], falling."""
        return self._e.topk(count, dim=1).values / self._total

    def entropy(self) -> Tensor:
        """[r] nats: log sum e^z - sum p z."""
        products = torch.mul(self._e, self._z, out=self._spare)
        return (self._total.log() - products.sum(1, keepdim=True) / self._total).squeeze(1)

    def entropy_derivative(self, entropy: Tensor) -> Tensor:
        """(dH / dz) / T [r, V], for the unscaled logits; valid until the next call."""
        offset = entropy[:, None] - self._total.log()
        surprise = torch.add(self._z, offset, out=self._spare)
        return surprise.mul_(self._e).mul_(-1.0 / (self._total * self.temperature))

    def logp_derivative(self, target: Tensor) -> Tensor:
        """(e_y - p) / T [r, V]. It overwrites the exponentials: call it last for a slice."""
        rest = self._e.mul_(-1.0 / (self._total * self.temperature))
        rest[torch.arange(len(target), device=rest.device), target] += 1.0 / self.temperature
        return rest
