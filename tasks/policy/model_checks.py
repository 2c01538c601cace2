"""What a model supports, found by trying: whether prompts can be shared, and whether its head is plain."""

from __future__ import annotations

import contextlib
import inspect
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from params.base import BadInput
from tasks.policy import packing, prefix_attention
from tasks.policy.hidden_states import batch_states, hidden_states
from tasks.policy.load import head_weight

Sharing = Literal["attention", "mask", "none"]

PROBE_PROMPT = (1, 2, 3, 2)
PROBE_RESPONSES = ((3, 1, 2, 2, 3, 1, 1), (2, 2, 1, 3, 1, 2, 1))


@torch.no_grad()
def sharing(network: PreTrainedModel, device: torch.device) -> Sharing:
    """How the responses to a prompt can share it and still get the hidden states that each has alone.

    ``attention``: by shared-prefix attention; ``mask``: by the model's own, under a dense mask; ``none`` for
    sliding windows, recurrent or linear attention, and positions that cannot be given. Raises ``BadInput``
    for a model whose logits are more than a product with its head's weights.
    """
    _require_plain_head(network, device)
    takes_positions = "position_ids" in inspect.signature(network.base_model.forward).parameters
    if not (takes_positions and _only_full_attention(network)):
        return "none"
    alone = torch.tensor([PROBE_PROMPT + response[:-1] for response in PROBE_RESPONSES])
    apart = hidden_states(network, input_ids=alone.to(device)).float().cpu()
    expected = torch.cat([apart[0], apart[1, len(PROBE_PROMPT) :]])
    tolerance = 1e-3 if network.dtype == torch.float32 else 0.1
    ways: tuple[Sharing, ...] = ("attention", "mask")
    for way in ways:
        found = _shared(network, device, way)
        if found is None:
            continue
        # Rounding alone moves single positions by half their length in bf16; another mask moves them all.
        off = (found - expected).norm(dim=1) / expected.norm(dim=1)
        if float(off.median() if network.dtype != torch.float32 else off.max()) <= tolerance:
            return way
    return "none"


def _shared(network: PreTrainedModel, device: torch.device, way: str) -> Tensor | None:
    """Hidden states [L, H] of the probe's responses behind one prompt; None where the kernel does not support
    what the model asks for."""
    lengths = [len(response) for response in PROBE_RESPONSES]
    row = packing.Row(PROBE_PROMPT, (0, 1), len(PROBE_PROMPT) + sum(lengths) - 2)
    batch = packing.build([row], PROBE_RESPONSES, [0, lengths[0]], flat=way == "attention").to(device)
    ours = prefix_attention.use_prefix_attention(network) if way == "attention" else contextlib.nullcontext()
    try:
        with ours:
            return batch_states(network, batch)[0].float().cpu()
    except prefix_attention.Unsupported:
        return None


def _only_full_attention(network: PreTrainedModel) -> bool:
    config = network.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) == {"full_attention"}
    windowed = getattr(config, "sliding_window", None) is not None and getattr(
        config, "use_sliding_window", True
    )
    return not windowed and not getattr(network, "_is_stateful", False)


def _require_plain_head(network: PreTrainedModel, device: torch.device) -> None:
    ids = torch.tensor([PROBE_PROMPT], device=device)
    logits = network(input_ids=ids, use_cache=False).logits.float()
    plain = (hidden_states(network, input_ids=ids) @ head_weight(network).T).float()
    if not torch.allclose(logits, plain, rtol=0.05, atol=0.05 * float(plain.abs().max())):
        raise BadInput(
            f"{type(network).__name__}: its logits are not a product with its head's weights "
            "(a bias, a scale or a soft cap); expected a plain head"
        )
