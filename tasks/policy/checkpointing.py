"""Activation checkpointing: of each decoder layer only the input is kept, and its inside is computed again in
the backward pass (Chen et al. 2016, arXiv 1604.06174).

transformers' own applies in training mode alone; ours has no dropout and stays in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tasks.policy.load import decoder_layers
from tasks.policy.prefix_attention import checkpoint_contexts


def checkpoint_layers(network: PreTrainedModel) -> None:
    """From now on, every layer's passes that a gradient is asked of keep their input alone."""
    for layer in decoder_layers(network):
        layer.forward = _checkpointed(layer.forward)  # inside FSDP's hooks, which gather weights around it


def activation_bytes(network: PreTrainedModel) -> int:
    """Of one position, in all layers, without checkpoints: inputs and results of linear layers, norms and
    attention that the backward pass reads."""
    config = network.config.get_text_config()
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = getattr(config, "head_dim", None) or hidden // heads
    wide = 2 * size * (heads + (getattr(config, "num_key_value_heads", None) or heads))
    inside = getattr(config, "intermediate_size", None) or 4 * hidden
    return int(config.num_hidden_layers * (4 * hidden + 3 * inside + wide) * network.dtype.itemsize)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **options)
        return checkpoint(
            forward,
            *arguments,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing is drawn
            context_fn=checkpoint_contexts,
            **options,
        )

    return run
