"""What the head sees of a micro-batch, in either layout of its rows."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tasks.policy import prefix_attention, prefix_attention_cpu, prefix_attention_flex
from tasks.policy.load import hidden_states
from tasks.policy.packing import MicroBatch


def states(network: PreTrainedModel, batch: MicroBatch, by_flex: bool = False) -> Tensor:
    """Hidden states [B, L, H]; of flat rows inside ``tree.attention_of``. Masks are made once, not in every
    layer."""
    if batch.tree is not None:
        kernel = prefix_attention_cpu.products(batch.tree)
        if by_flex:
            mask = prefix_attention_flex.block_mask(
                batch.tree, batch.input_ids.shape[1], batch.input_ids.device
            )
            kernel = functools.partial(prefix_attention_flex.attend, mask)
        with prefix_attention.using(kernel):
            return hidden_states(network, input_ids=batch.input_ids, position_ids=batch.position_ids)
    if batch.mask is None:
        return hidden_states(network, input_ids=batch.input_ids)
    shut = torch.zeros(batch.mask.shape, dtype=network.dtype, device=batch.mask.device)
    shut.masked_fill_(~batch.mask, -torch.inf)
    return hidden_states(
        network, input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=shut
    )
