"""Shared-prefix attention: the responses to a prompt stand behind one copy of it, and do not see each other.

A row is a prompt of P positions and then N positions of G branches, a response each. Prompt positions see the
prompt causally; a branch's positions see the whole prompt and, causally, their own branch. This module says
which rows a sequence holds, and has a model of transformers attend by a kernel that knows them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from params.errors import OstinatoError

NAME = "ostinato_prefix"


@dataclass(frozen=True)
class PrefixRow:
    """One row: ``prompt`` positions from ``start`` on, then ``responses`` positions in G branches.

    The longest branch has R positions; a shorter one is padded to them.
    """

    start: int
    prompt: int
    responses: int
    padded: Tensor
    """[G, R] int64: the branches' positions, counted from the prompt's end; 0 for padding."""
    unpadded: Tensor
    """[N] int64: where position n stands in ``padded``, flat."""

    @classmethod
    def of(cls, start: int, prompt: int, lengths: Sequence[int]) -> PrefixRow:
        """From the branches' lengths; a branch of no positions is left out."""
        counts = torch.tensor([n for n in lengths if n], dtype=torch.int64)
        total, longest = sum(lengths), max(lengths, default=0)
        taken = torch.arange(longest) < counts[:, None]
        padded = torch.zeros(taken.shape, dtype=torch.int64)
        padded[taken] = torch.arange(total)
        return cls(start, prompt, total, padded, taken.flatten().nonzero().squeeze(1))

    def to(self, device: torch.device) -> PrefixRow:
        """The same on another device."""
        return replace(self, padded=self.padded.to(device), unpadded=self.unpadded.to(device))


class Unsupported(OstinatoError):
    """The model asks its attention for something that this one does not compute."""


Kernel = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Query [1, H, L, D], key and value [1, K, L, D] and the scale, to [1, H, L, D]."""


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
def use_kernel(kernel: Kernel) -> Iterator[None]:
    """Inside the block, this thread's attention is computed by ``kernel``."""
    _current.kernel = kernel
    try:
        yield
    finally:
        _current.kernel = None


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
    """On a CPU, multiply float32 matrices as bfloat16 with float32 sums and results, in the whole process.

    A bfloat16 model's queries and keys lose nothing by it: they are float32 only for the scores.
    """
    if dtype != torch.bfloat16:
        yield
        return
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
