"""Shared-prefix attention by torch's FlexAttention: one kernel on a GPU, which skips fully masked blocks.

On a CPU it runs without compilation, as a plain matrix of scores: for comparison only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from tasks.policy.prefix_attention import Kernel, PrefixRow


def kernel(rows: Sequence[PrefixRow], device: torch.device) -> Kernel:
    """The kernel for a sequence of these rows."""
    last = rows[-1]
    mask = block_mask(rows, last.start + last.prompt + last.responses, device)
    return functools.partial(attend, mask)


def block_mask(rows: Sequence[PrefixRow], length: int, device: torch.device) -> BlockMask:
    """Which of ``length`` positions sees which."""
    numbers = [n for n, held in enumerate(rows) for _ in range(held.prompt + held.responses)]
    branches = [b for held in rows for b, n in enumerate((held.prompt, *held.branches)) for _ in range(n)]
    row, branch = (torch.tensor(x, dtype=torch.int32, device=device) for x in (numbers, branches))

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same_branch = (branch[key] == 0) | (branch[key] == branch[query])
        return (row[query] == row[key]) & (key <= query) & same_branch

    return create_block_mask(sees, None, None, length, length, device=str(device))


def attend(mask: BlockMask, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Query [1, H, L, D], key and value [1, K, L, D] to [1, H, L, D]."""
    kernel: Any = _compiled() if query.device.type == "cuda" else flex_attention
    out: Tensor = kernel(
        query, key, value, block_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )
    return out


@functools.cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=True)
