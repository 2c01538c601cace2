"""What sees what where responses share a prompt, and how a model's attention is made to compute just that.

A row is a prompt of P positions and then N positions of G branches. Prompt positions see the prompt causally;
branch positions see the whole prompt and, causally, their own branch.
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

NAME = "ostinato_tree"


@dataclass(frozen=True)
class Branches:
    """One row: ``prompt`` positions from ``start`` on, then ``responses`` positions in G branches."""

    start: int
    prompt: int
    responses: int
    slots: Tensor
    """[G, R] int64: the branches' positions, counted from the prompt's end; repeats where one is shorter."""
    places: Tensor
    """[N] int64: where position n stands in ``slots``, flat."""

    @classmethod
    def of(cls, start: int, prompt: int, lengths: Sequence[int]) -> Branches:
        """From the branches' lengths; a branch of no positions is left out."""
        lengths = [n for n in lengths if n]
        longest = max(lengths, default=0)
        slots = torch.zeros(len(lengths), longest, dtype=torch.int64)
        places: list[int] = []
        begin = 0
        for b, n in enumerate(lengths):
            slots[b, :n] = torch.arange(begin, begin + n)
            places += range(b * longest, b * longest + n)
            begin += n
        return cls(start, prompt, begin, slots, torch.tensor(places, dtype=torch.int64))


@dataclass(frozen=True)
class Tree:
    """The rows of one sequence, end to end."""

    rows: tuple[Branches, ...]

    def to(self, device: torch.device) -> Tree:
        """The same on another device."""
        moved = (replace(r, slots=r.slots.to(device), places=r.places.to(device)) for r in self.rows)
        return Tree(tuple(moved))


class Unsupported(OstinatoError):
    """The model asks its attention for something that this one does not compute."""


Kernel = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Query [1, H, L, D], key and value [1, K, L, D] and the scale, to [1, H, L, D]."""


class _Current(threading.local):
    kernel: Kernel | None = None


_current = _Current()


@contextmanager
def attention_of(network: PreTrainedModel) -> Iterator[None]:
    """Inside the block, the attention of ``network`` is this file's, in every thread: see ``using``."""
    config = network.config.get_text_config()
    before, config._attn_implementation = config._attn_implementation, NAME
    try:
        with _exact_products(network.dtype):
            yield
    finally:
        config._attn_implementation = before


@contextmanager
def using(kernel: Kernel) -> Iterator[None]:
    """Inside the block, what this thread attends to is computed by ``kernel``."""
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
        raise Unsupported(f"tree attention: no {', '.join(extras) or 'dropout, mask or use outside a tree'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _current.kernel(query, key, value, scale).transpose(1, 2), None


AttentionInterface.register(NAME, attention)


@contextmanager
def _exact_products(dtype: torch.dtype) -> Iterator[None]:
    """On a CPU, multiply float32 matrices as bf16 with float32 sums and results: of the values of a bf16
    model, which only scores take to float32, nothing is lost. For the whole process."""
    if dtype != torch.bfloat16:
        yield
        return
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
