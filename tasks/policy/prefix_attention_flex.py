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

from tasks.policy.prefix_attention import PrefixRow


def block_mask(rows: Sequence[PrefixRow], length: int, device: torch.device) -> BlockMask:
    """Which of ``length`` positions sees which."""
    row = torch.empty(length, dtype=torch.int32)
    branch = torch.zeros(length, dtype=torch.int32)
    for number, held in enumerate(rows):
        first = held.start + held.prompt
        row[held.start : first + held.responses] = number
        if held.responses:
            own = torch.div(held.unpadded.cpu(), held.padded.shape[1], rounding_mode="floor")
            branch[first : first + held.responses] = own.int() + 1
    row, branch = row.to(device), branch.to(device)

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
