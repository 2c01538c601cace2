"""What ``lm_head.py`` computes, for a GPU: one kernel reads a chunk's logits for everything that is asked of
them, log-probabilities, entropies and derivatives, instead of an operation for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tasks.policy.fused import fused


def fused_head(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    temperature: float,
    chunk: int,
    entropy_gradient: bool,
    wanted: bool,
) -> tuple[Tensor, Tensor]:
    """hidden [t, H], weight [V, H], target [t] to log-probabilities and entropies [t], float32 at least.

    With ``wanted`` the log-probabilities are differentiable in ``hidden`` and ``weight``; the entropies with
    ``entropy_gradient``.
    """
    apply: Callable[..., tuple[Tensor, Tensor]] = _Head.apply
    return apply(hidden, weight, target, temperature, chunk, entropy_gradient, wanted)


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        temperature: float,
        chunk: int,
        entropy_gradient: bool,
        wanted: bool,
    ) -> tuple[Tensor, Tensor]:
        found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for states, ids in zip(hidden.split(chunk), target.split(chunk), strict=True):
            of = _score(states @ weight.T, ids, temperature, entropy_gradient)
            d_logp = (of.d_logp if wanted else of.d_logp[:0]) @ weight
            found.append((of.logp, of.entropy, d_logp, of.d_entropy.to(weight.dtype) @ weight))
        logp, entropy, d_logp, d_entropy = (torch.cat(each) for each in zip(*found, strict=True))
        ctx.save_for_backward(hidden, weight, target, d_logp, d_entropy)
        ctx.options = temperature, chunk, entropy_gradient
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        hidden, weight, target, d_logp, d_entropy = ctx.saved_tensors
        temperature, chunk, entropy_gradient = ctx.options
        of_logp, of_entropy = (grad[:, None].to(weight.dtype) for grad in grads)
        to_hidden = to_weight = None
        if ctx.needs_input_grad[0]:
            to_hidden = d_logp * of_logp
            if entropy_gradient:
                to_hidden += d_entropy * of_entropy
        if ctx.needs_input_grad[1]:
            to_weight = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
            parts = (x.split(chunk) for x in (hidden, target, of_logp, of_entropy))
            for states, ids, by_logp, by_entropy in zip(*parts, strict=True):
                of = _score(states @ weight.T, ids, temperature, entropy_gradient)
                to_logits = of.d_logp.mul_(by_logp)
                if entropy_gradient:
                    to_logits += of.d_entropy * by_entropy
                to_weight += to_logits.T @ states
            to_weight = to_weight.to(weight.dtype)
        return to_hidden, to_weight, *(None,) * 5


class _Scores(NamedTuple):
    """Of r tokens: ``logp`` and ``entropy`` [r]; their derivatives with respect to the logits [r, V], in the
    logits' type, that of the entropy [0, V] where it is not asked for."""

    logp: Tensor
    entropy: Tensor
    d_logp: Tensor
    d_entropy: Tensor


def _score(logits: Tensor, target: Tensor, temperature: float, entropy_gradient: bool) -> _Scores:
    found = _score_logits(logits, target, temperature)
    d_entropy = logits[:0]
    if entropy_gradient:
        d_entropy = _entropy_derivative(logits, found[1], temperature)
    return _Scores(*found, d_entropy)


@fused
def _score_logits(logits: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """log p(y) [r], H [r] and (e_y - p) / T [r, V]."""
    logs = _log_softmax(logits, temperature)
    p = logs.exp()
    own = torch.arange(logits.shape[1], device=logits.device) == target[:, None]
    derivative = ((own.to(p.dtype) - p) / temperature).to(logits.dtype)
    return logs.gather(1, target[:, None]).squeeze(1), -(p * logs).sum(1), derivative


@fused
def _entropy_derivative(logits: Tensor, entropy: Tensor, temperature: float) -> Tensor:
    """-p (log p + H) / T [r, V]."""
    logs = _log_softmax(logits, temperature)
    return (logs.exp() * (logs + entropy[:, None]) / -temperature).to(logits.dtype)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    z = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    z = z - z.amax(1, keepdim=True)
    return z - z.exp().sum(1, keepdim=True).log()
