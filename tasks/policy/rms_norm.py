"""RMS normalisation as one operation: with its derivative written out on a CPU, a quarter of the time of the
model's own; torch's kernel on a GPU.

    y = w * h,   h = x / sqrt(mean(x^2) + eps),   dx = (w g - h mean(w g * h)) / sqrt(mean(x^2) + eps)

Sums are float32 at least; h is rounded to the type of x before it is scaled, as transformers does.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def speed_up(network: nn.Module) -> int:
    """Replace the forward pass of every RMS norm of a model by this one; the number replaced.

    A module is one when its class name says so and it gives the same values as this one.
    """
    changed = 0
    for module in network.modules():
        if type(module).__name__.endswith("RMSNorm") and _is_plain(module):
            module.forward = types.MethodType(_forward, module)
            changed += 1
    return changed


@torch.no_grad()
def _is_plain(module: Any) -> bool:
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(weight, Tensor) or weight.ndim != 1 or eps is None:
        return False
    x = torch.linspace(-2.0, 3.0, 3 * len(weight)).view(3, -1).to(weight)
    return torch.allclose(module(x).float(), _forward(module, x).float(), rtol=0.02, atol=1e-6)


def _forward(module: Any, x: Tensor) -> Tensor:
    if x.is_cuda:
        return functional.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)
    apply: Callable[..., Tensor] = _RMSNorm.apply
    return apply(x, module.weight, module.variance_epsilon)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        length = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = (exact * scale if exact is x else exact.mul_(scale)).to(x.dtype)
        ctx.save_for_backward(unit, weight, scale)
        return unit * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        unit, weight, scale = ctx.saved_tensors
        to_x = to_weight = None
        exact = unit.to(scale.dtype)
        if ctx.needs_input_grad[1]:
            to_weight = (grad * exact).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            to_unit = (grad * weight).to(scale.dtype)
            projection = torch.linalg.vecdot(to_unit, exact)[..., None].div_(exact.shape[-1])
            to_x = to_unit.addcmul_(exact, projection, value=-1.0).mul_(scale).to(unit.dtype)
        return to_x, to_weight, None
