"""From hidden states to log-probabilities, entropies and rank probabilities, never holding all logits.

    z = h W^T / T,   log p(y) = z_y - logsumexp(z),   H = -sum_v p_v log p_v

A token's log-probability depends on one hidden state alone, so its derivative is a single vector,

    d log p(y) / dh = (e_y - p) W / T,        dH / dh = -(p * (log p + H)) W / T,

which the forward pass computes while the chunk's logits are there; the backward pass multiplies. Where the
head's weights train, their gradient is made from logits that the backward pass computes again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadOutput:
    """Per token: ``logp`` and ``entropy`` [t] in nats, ``ranks`` [t, k] the largest probabilities."""

    logp: Tensor
    entropy: Tensor | None
    ranks: Tensor | None


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
) -> HeadOutput:
    """Score ``target`` [t] under ``hidden`` [t, H] and ``weight`` [V, H], ``chunk`` positions at a time.

    Log-sum-exp and results are float32 (float64 for float64 inputs). ``logp`` is differentiable in ``hidden``
    and ``weight``; so is ``entropy`` with ``entropy_gradient``.
    """
    entropy = entropy or entropy_gradient
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    options = (temperature, chunk, entropy, entropy_gradient and wanted, ranks, wanted)
    logp, spread, top = _Head.apply(hidden, weight, target, *options)
    return HeadOutput(logp, spread if entropy else None, top if ranks else None)


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        temperature: float,
        chunk: int,
        entropy: bool,
        entropy_gradient: bool,
        ranks: int,
        wanted: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        logp = hidden.new_empty(len(target), dtype=exact)
        spread = hidden.new_empty(len(target) if entropy else 0, dtype=exact)
        top = hidden.new_empty((len(target), ranks), dtype=exact)
        slope = torch.empty_like(hidden) if wanted else None
        spread_slope = torch.empty_like(hidden) if entropy_gradient else None
        for part in _chunks(len(target), chunk):
            logs = _log_softmax(hidden[part], weight, temperature, exact)
            logp[part] = logs.gather(1, target[part, None]).squeeze(1)
            if not (entropy or ranks or wanted):
                continue
            p = logs.exp()
            if ranks:
                top[part] = p.topk(ranks, dim=1).values
            if entropy:
                spread[part] = _entropy(p, logs)
            if spread_slope is not None:
                spread_slope[part] = (
                    _entropy_slope(p, logs, spread[part], temperature).to(weight.dtype) @ weight
                )
            if slope is not None:
                slope[part] = _slope(p, target[part], temperature).to(weight.dtype) @ weight
        ctx.save_for_backward(hidden, weight, target, spread, slope, spread_slope)
        ctx.options = (temperature, chunk, exact)
        ctx.mark_non_differentiable(top)
        if not entropy_gradient:
            ctx.mark_non_differentiable(spread)
        return logp, spread, top

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        grad_logp, grad_spread, _ = grads
        hidden, weight, target, spread, slope, spread_slope = ctx.saved_tensors
        temperature, chunk, exact = ctx.options
        to_hidden = to_weight = None
        if ctx.needs_input_grad[0]:
            to_hidden = slope * grad_logp[:, None].to(slope.dtype)
            if spread_slope is not None:
                to_hidden += spread_slope * grad_spread[:, None].to(slope.dtype)
        if ctx.needs_input_grad[1]:
            to_weight = torch.zeros_like(weight, dtype=exact)
            for part in _chunks(len(target), chunk):
                logs = _log_softmax(hidden[part], weight, temperature, exact)
                p = logs.exp()
                bend = None if spread_slope is None else _entropy_slope(p, logs, spread[part], temperature)
                to_logits = _slope(p, target[part], temperature) * grad_logp[part, None]
                if bend is not None:
                    to_logits += bend * grad_spread[part, None]
                to_weight += to_logits.to(weight.dtype).T @ hidden[part]
            to_weight = to_weight.to(weight.dtype)
        return to_hidden, to_weight, None, None, None, None, None, None, None


def _chunks(count: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, count)) for start in range(0, count, chunk)]


def _log_softmax(hidden: Tensor, weight: Tensor, temperature: float, exact: torch.dtype) -> Tensor:
    logits = (hidden @ weight.T).to(exact)
    if temperature != 1.0:
        logits = logits.div_(temperature)
    return torch.log_softmax(logits, dim=1)


def _entropy(p: Tensor, logs: Tensor) -> Tensor:
    return -torch.linalg.vecdot(p, logs)


def _entropy_slope(p: Tensor, logs: Tensor, spread: Tensor, temperature: float) -> Tensor:
    """dH / dz, divided by the temperature; a new tensor."""
    return (logs + spread[:, None]).mul_(p).mul_(-1.0 / temperature)


def _slope(p: Tensor, target: Tensor, temperature: float) -> Tensor:
    """(e_y - p) / T, in place of ``p``: near p_y = 1 the difference keeps its digits."""
    rest = p.neg_().mul_(1.0 / temperature)
    rest[torch.arange(len(target), device=p.device), target] += 1.0 / temperature
    return rest
