"""Shared-prefix attention: the responses to a prompt stand behind one copy of it, and do not see each other.

A row is a prompt of P positions and then N positions of G branches, a response each. Prompt positions see the
prompt causally; a branch's positions see the whole prompt and, causally, their own branch. This module says
which rows a sequence holds, and has a model of transformers attend by a kernel that knows them.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from params.errors import OstinatoError

NAME = "ostinato_prefix"

Attention = Literal["products", "flash", "flex"]


@dataclass(frozen=True)
class PrefixRow:
    """One row: ``prompt`` positions from ``start`` on, then ``responses`` positions in G branches.

    The longest branch has R positions; a shorter one is padded to them.
    """

    start: int
    prompt: int
    responses: int
    branches: tuple[int, ...]
    """Positions of each branch."""
    padded: Tensor
    """[G, R] int64: the branches' positions, counted from the prompt's end; 0 for padding."""
    unpadded: Tensor
    """[N] int64: where position n stands in ``padded``, flat."""

    @classmethod
    def of(cls, start: int, prompt: int, lengths: Sequence[int]) -> PrefixRow:
        """From the branches' lengths; a branch of no positions is left out."""
        branches = tuple(n for n in lengths if n)
        total, longest = sum(branches), max(branches, default=0)
        taken = torch.arange(longest) < torch.tensor(branches, dtype=torch.int64)[:, None]
        padded = torch.zeros(taken.shape, dtype=torch.int64)
        padded[taken] = torch.arange(total)
        return cls(start, prompt, total, branches, padded, taken.flatten().nonzero().squeeze(1))

    def to(self, device: torch.device) -> PrefixRow:
        """The same on another device."""
        return replace(self, padded=self.padded.to(device), unpadded=self.unpadded.to(device))


class Unsupported(OstinatoError):
    """The model asks its attention for something that this one does not compute."""


Kernel = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Query [1, H, L, D], key and value [1, K, L, D] and the scale, to [1, H, L, D]."""


def kernel(way: Attention, rows: Sequence[PrefixRow], device: torch.device) -> Kernel:
    """The kernel of ``prefix_attention_WAY`` for a sequence of these rows."""
    module = importlib.import_module(f"{__name__}_{way}")
    made: Kernel = module.kernel(rows, device)
    return made


def fastest(device: torch.device, dtype: torch.dtype, head_size: int) -> Attention:
    """The way that a device computes fastest; flash attention takes 16-bit types and heads up to 256 wide."""
    flash = device.type == "cuda" and dtype.itemsize == 2 and head_size <= 256 and head_size % 8 == 0
    return "flash" if flash else "products"


class _Current(threading.local):
    kernel: Kernel | None = None


_current = _Current()


@contextmanager
def use_prefix_attention(network: PreTrainedModel) -> Iterator[None]:
    """Inside the block, every thread's passes of ``network`` attend by the kernel of ``use_kernel``."""
    config = network.config.get_text_config()
    before, config._attn_implementation = config._attn_implementation, NAME
    try:
        with _exact_products(network.dtype):
            yield
    finally:
        config._attn_implementation = before


@contextmanager
def use_kernel(kernel: Kernel | None) -> Iterator[None]:
    """Inside the block, this thread's attention is computed by ``kernel``."""
    before, _current.kernel = _current.kernel, kernel
    try:
        yield
    finally:
        _current.kernel = before


def checkpoint_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For a part of a forward pass that the backward pass computes again, which on a GPU is another thread:
    nothing, and the kernel of now."""
    return contextlib.nullcontext(), use_kernel(_current.kernel)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' interface: query [1, H, L, D], key and value [1, K, L, D] to [1, L, H, D].

    Raises ``Unsupported`` for dropout, masks, windows, soft caps, sinks and biases.
    """
    extras = [
        name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if more.get(name) is not None
    ]
    if extras or dropout or attention_mask is not None or _current.kernel is None:
        raise Unsupported(
            f"shared-prefix attention: no {', '.join(extras) or 'dropout, mask or use outside use_kernel'}"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _current.kernel(query, key, value, scale).transpose(1, 2), None


AttentionInterface.register(NAME, attention)


@contextmanager
def _exact_products(dtype: torch.dtype) -> Iterator[None]:
    """Multiply float32 matrices on units for fewer bits, with float32 sums and results, in the whole process:
    as bfloat16 on a CPU, as TF32 on a GPU.

    A bfloat16 model's queries and keys lose nothing by it: they are float32 only for the scores.
    """
    if dtype != torch.bfloat16:
        yield
        return
    cpu: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    gpu: Any = torch.backends.cuda.matmul
    before = cpu.fp32_precision, gpu.fp32_precision
    cpu.fp32_precision, gpu.fp32_precision = "bf16", "tf32"
    try:
        yield
    finally:
        cpu.fp32_precision, gpu.fp32_precision = before
