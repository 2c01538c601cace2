"""Rotary position embedding of queries and keys as one operation on a GPU, instead of ten.

    y = x cos + r(x) sin,   dx = g cos + r'(g sin),   r(x) = (-x2, x1) for the halves x = (x1, x2), r' = -r

Sums are float32 at least. Su et al. 2021, arXiv 2104.09864.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tasks.policy.fused import fused

NAME = "apply_rotary_pos_emb"
"""What the attention of a model of transformers calls, in the model's own module."""


def speed_up(network: nn.Module) -> int:
    """Replace the function in the modules of the network's layers, where it gives the same values; the number
    of modules."""
    modules = {sys.modules[type(module).__module__] for module in network.modules()}
    theirs = [module for module in modules if _is_plain(getattr(module, NAME, None))]
    for module in theirs:
        setattr(module, NAME, rotate)
    return len(theirs)


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """transformers' interface: q [B, H, L, D], k [B, K, L, D], ``cos`` and ``sin`` [B, L, D]."""
    apply: Callable[..., Tensor] = _Rotation.apply
    if unsqueeze_dim == 2:
        return apply(q, cos[:, :, None], sin[:, :, None]), apply(k, cos[:, :, None], sin[:, :, None])
    # As the linear maps before and after lay them out: by position, then by head.
    flat = (apply(x.transpose(1, 2), cos[:, :, None], sin[:, :, None]) for x in (q, k))
    first, second = (x.transpose(1, 2) for x in flat)
    return first, second


@torch.no_grad()
def _is_plain(function: Any) -> bool:
    if (
        function is None
        or function is rotate
        or list(inspect.signature(function).parameters)[:4] != [*("q", "k", "cos", "sin")]
    ):
        return False
    generator = torch.Generator().manual_seed(0)
    q, cos, sin = (torch.randn(size, generator=generator) for size in ((1, 2, 3, 8), (1, 3, 8), (1, 3, 8)))
    both = zip(function(q, q[:, :1], cos, sin), rotate(q, q[:, :1], cos, sin), strict=True)
    return all(torch.allclose(theirs, ours, atol=1e-6) for theirs, ours in both)


@fused
def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    exact = torch.promote_types(x.dtype, torch.float32)
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x.to(exact) * cos.to(exact) + turned.to(exact) * sin.to(exact)).to(x.dtype)


@fused
def _rotated_back(grad: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    exact = torch.promote_types(grad.dtype, torch.float32)
    first, second = (grad.to(exact) * sin.to(exact)).chunk(2, dim=-1)
    return (grad.to(exact) * cos.to(exact) + torch.cat((second, -first), dim=-1)).to(grad.dtype)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _rotated_back(grad, *ctx.saved_tensors), None, None
