"""Element-wise work of a pass in one kernel instead of one for each operation, on a GPU.

torch.compile makes the kernels, which takes Triton and a C compiler; without them, and on a CPU, the same
functions run operation by operation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import torch

from tasks.core.device import can_compile

P = ParamSpec("P")
R = TypeVar("R")


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """The function as one kernel where a tensor among its arguments lies on a GPU."""

    @functools.cache
    def compiled() -> Callable[P, R]:
        return cast("Callable[P, R]", torch.compile(function))

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        on_gpu = any(isinstance(x, torch.Tensor) and x.is_cuda for x in args)
        return (compiled() if on_gpu and can_compile() else function)(*args, **kwargs)

    return run
