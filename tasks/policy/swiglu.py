"""The gated feed-forward layer's product, silu(gate) * up, of which the backward pass computes silu again:

h = g s(g) u,   dg = d u s(g) (1 + g (1 - s(g))),   du = d g s(g),   s the logistic function
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tasks.policy.fused import fused


def speed_up(network: nn.Module) -> int:
    """Replace the forward pass of every gated feed-forward layer with SiLU; the number replaced."""
    parts, changed = {"gate_proj", "up_proj", "down_proj"}, 0
    for module in network.modules():
        plain = parts == {name for name, _ in module.named_children()} - {"act_fn"}
        if plain and _is_silu(getattr(module, "act_fn", None)):
            module.forward = types.MethodType(_forward, module)
            changed += 1
    return changed


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, in the type of its inputs."""
    apply: Callable[..., Tensor] = _SwiGLU.apply
    return apply(gate, up)


def _is_silu(function: Any) -> bool:
    x = torch.linspace(-3.0, 3.0, 7)
    return callable(function) and torch.equal(function(x), nn.functional.silu(x))


def _forward(module: Any, x: Tensor) -> Tensor:
    out: Tensor = module.down_proj(swiglu(module.gate_proj(x), module.up_proj(x)))
    return out


@fused
def _product(gate: Tensor, up: Tensor) -> Tensor:
    exact = torch.promote_types(gate.dtype, torch.float32)
    return (nn.functional.silu(gate.to(exact)) * up.to(exact)).to(gate.dtype)


@fused
def _gradients(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    exact = torch.promote_types(gate.dtype, torch.float32)
    d, g, u = grad.to(exact), gate.to(exact), up.to(exact)
    share = torch.sigmoid(g)
    return (d * u * share * (1.0 + g * (1.0 - share))).to(gate.dtype), (d * g * share).to(gate.dtype)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _product(gate, up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return _gradients(grad, gate, up)
