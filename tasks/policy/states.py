"""What the head sees of a micro-batch, in either layout of its rows."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tasks.policy import tree
from tasks.policy.load import hidden_states
from tasks.policy.rows import MicroBatch


def states(network: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """Hidden states [B, L, H]. An additive mask in the model's type is converted once, not in every layer."""
    if batch.tree is not None:
        with tree.using(network, batch.tree):
            return hidden_states(network, input_ids=batch.input_ids, position_ids=batch.position_ids)
    if batch.mask is None:
        return hidden_states(network, input_ids=batch.input_ids)
    shut = torch.zeros(batch.mask.shape, dtype=network.dtype, device=batch.mask.device)
    shut.masked_fill_(~batch.mask, -torch.inf)
    return hidden_states(
        network, input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=shut
    )
