"""The hidden states that a model's head reads, of plain input or of a micro-batch in either layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tasks.policy import prefix_attention
from tasks.policy.packing import MicroBatch


def hidden_states(network: PreTrainedModel, **inputs: Any) -> Tensor:
    """[B, L, H], for the arguments of the model's own forward pass."""
    states: Tensor = network.base_model(use_cache=False, **inputs).last_hidden_state
    return states


def batch_states(
    network: PreTrainedModel, batch: MicroBatch, way: prefix_attention.Attention = "products"
) -> Tensor:
    """[B, L, H] of a micro-batch; a flat one inside ``prefix_attention.use_prefix_attention``, by the kernel
    of ``way``."""
    inputs: dict[str, Tensor] = {"input_ids": batch.input_ids}
    if batch.prefix_rows is not None:
        kernel = prefix_attention.kernel(way, batch.prefix_rows, batch.input_ids.device)
        with prefix_attention.use_kernel(kernel):
            return hidden_states(network, **inputs, position_ids=batch.position_ids)
    if batch.mask is not None:
        added = torch.zeros(batch.mask.shape, dtype=network.dtype, device=batch.mask.device)
        added.masked_fill_(~batch.mask, -torch.inf)
        inputs |= {"position_ids": batch.position_ids, "attention_mask": added}
    return hidden_states(network, **inputs)
