"""Shared-prefix attention by the flash-attention kernels that torch carries: 16-bit types, on a GPU.

One call of the kernel for sequences of varying length: a prompt's queries over the prompt's keys, a branch's
over the prompt's and its own, laid side by side for it. The kernel aligns its causal mask with the ends of
queries and keys, so that a branch's first query sees its whole prompt. Keys and values are copied for that, a
layer's at a time; queries, of which grouped heads have several times as many, are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from tasks.policy.prefix_attention import Kernel, PrefixRow


def kernel(rows: Sequence[PrefixRow], device: torch.device) -> Kernel:
    """The kernel for a sequence of these rows."""
    sequences = _Sequences.of(rows, device)

    def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        apply: Callable[..., Tensor] = _Attention.apply
        flat = (x[0].transpose(0, 1) for x in (query, key, value))
        return apply(*flat, sequences, scale).transpose(0, 1)[None]

    return attend


@dataclass(frozen=True)
class _Sequences:
    """S sequences of queries, in the order of their positions, and the keys of each."""

    query_ends: Tensor
    """[S + 1] int32, from 0."""
    key_ends: Tensor
    longest_query: int
    longest_key: int
    keys: Tensor | None
    """[n] int64: the positions of all sequences' keys; None: those of the queries."""

    @classmethod
    def of(cls, rows: Sequence[PrefixRow], device: torch.device) -> _Sequences:
        """Each prompt, and each branch behind its prompt."""
        spans = [span for row in rows for span in _spans(row)]
        queries = [own for _, (_, own) in spans]
        keys = [prompt + own for (_, prompt), (_, own) in spans]
        places = None
        if any(row.responses for row in rows):
            parts = [torch.arange(first, first + count) for span in spans for first, count in span]
            places = torch.cat(parts).to(device)
        return cls(_ends(queries, device), _ends(keys, device), max(queries), max(keys), places)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As the kernels take them: without dropout, causal."""
        return self.query_ends, self.key_ends, self.longest_query, self.longest_key, 0.0, True

    def gather(self, x: Tensor) -> Tensor:
        """Keys or values [L, K, D] as the sequences read them."""
        return x if self.keys is None else x.index_select(0, self.keys)

    def add_up(self, x: Tensor, like: Tensor) -> Tensor:
        """The reverse for gradients, summed in float32."""
        if self.keys is None:
            return x
        total = torch.zeros(like.shape, dtype=torch.float32, device=x.device)
        return total.index_add_(0, self.keys, x.float()).to(x.dtype)


def _ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _spans(row: PrefixRow) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Of each sequence: first position and number of those of the prompt before its own, and of its own."""
    yield (row.start, 0), (row.start, row.prompt)
    first = row.start + row.prompt
    for length in row.branches:
        yield (row.start, row.prompt), (first, length)
        first += length


class _Attention(torch.autograd.Function):
    """Query [L, H, D], key and value [L, K, D] to [L, H, D]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, sequences: _Sequences, scale: float
    ) -> Tensor:
        out, total, random = flash_forward(
            query, sequences.gather(key), sequences.gather(value), sequences, scale
        )
        ctx.save_for_backward(query, key, value, out, total, random)
        ctx.options = sequences, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        query, key, value, out, total, random = ctx.saved_tensors
        sequences, scale = ctx.options
        keys, values = sequences.gather(key), sequences.gather(value)
        to_query, *to_read = flash_backward(grad, query, keys, values, out, total, random, sequences, scale)
        return to_query, *(sequences.add_up(x, key) for x in to_read), None, None


def flash_forward(
    query: Tensor, key: Tensor, value: Tensor, sequences: _Sequences, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's output [n, H, D], log-sum-exps [H, n] in float32, and what its backward pass asks for."""
    out, total, random, _, _ = torch.ops.aten._flash_attention_forward(
        query, key, value, *sequences.arguments, False, scale=scale
    )
    return out, total, random


def flash_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    total: Tensor,
    random: Tensor,
    sequences: _Sequences,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    unused = query.new_empty(0)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        grad, query, key, value, out, total, *sequences.arguments, random, unused, scale=scale
    )
    return found
