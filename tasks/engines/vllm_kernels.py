"""RMS norms of vLLM on a CPU by kernels of its own build, which it does not take there by itself: by torch's
single operations they are a tenth of the time of sampling from a small model.

They round once, where torch's operations round before the weight and after it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PROVIDER = "cpu_kernel"
VECTOR = 16
"""The kernels read so many numbers at once, and refuse rows that are no multiple of them."""


def use_kernels() -> None:
    """Have the models of this process, of which vLLM computes on a CPU, take them from now on."""
    from vllm import ir
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or not hasattr(torch.ops._C, "fused_add_rms_norm"):
        return
    norm, add_norm = ir.ops.rms_norm, ir.ops.fused_add_rms_norm
    if PROVIDER not in norm.impls:
        norm.register_impl(PROVIDER, supports_args=takes)(rms_norm)
        add_norm.register_impl(PROVIDER, supports_args=takes_sum, inplace=True)(fused_add_rms_norm)
    for each in (norm, add_norm):
        each.set_default([PROVIDER, "native"])


def takes(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    """Whether the kernel computes this: whole rows that lie together, and a weight of their type."""
    plain = variance_size is None and weight is not None and weight.dtype == x.dtype
    return plain and x.is_contiguous() and x.shape[-1] % VECTOR == 0


def takes_sum(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    """The same of a sum of two."""
    alike = x_residual.dtype == x.dtype and x_residual.is_contiguous()
    return alike and takes(x, weight, epsilon, variance_size)


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
    """weight · x / √(mean x² + ε) of each row of x [..., H]."""
    out = torch.empty_like(x)
    _kernels().rms_norm(out, x, weight, epsilon)
    return out


def fused_add_rms_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """The norm of x + x_residual, in x, and the sum, in x_residual; each [..., H]."""
    _kernels().fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual


def _kernels() -> Any:
    return torch.ops._C
