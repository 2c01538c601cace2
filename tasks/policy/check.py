"""What a model can do, asked of the model: whether prompts can be shared, and whether its head is plain."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from transformers import PreTrainedModel

from params import BadInput
from tasks.policy import rows
from tasks.policy.load import hidden_states

PROBE_PROMPT = (1, 2, 3)
PROBE_RESPONSES = ((3, 1, 2), (2, 2, 1))


@torch.no_grad()
def shares_prompts(network: PreTrainedModel, device: torch.device) -> bool:
    """Whether a tree mask and restarted positions give every response the states that it has alone.

    False for sliding windows, recurrent or linear attention, and positions that a mask cannot move. Raises
    ``BadInput`` for a model whose logits are more than a product with its head's weights.
    """
    _require_plain_head(network, device)
    takes_positions = "position_ids" in inspect.signature(network.base_model.forward).parameters
    if not (takes_positions and _only_full_attention(network)):
        return False
    together = rows.build([rows.Row(PROBE_PROMPT, (0, 1), 7)], PROBE_RESPONSES, [0, 3])
    mask = torch.zeros(1, 1, 7, 7, dtype=network.dtype).masked_fill_(~_present(together.mask), -torch.inf)
    shared = _states(network, device, together.input_ids, position_ids=together.position_ids, mask=mask)
    alone = torch.tensor([PROBE_PROMPT + response[:-1] for response in PROBE_RESPONSES])
    apart = _states(network, device, alone)
    expected = torch.cat([apart[0], apart[1, len(PROBE_PROMPT) :]])
    tolerance = 1e-3 if network.dtype == torch.float32 else 0.1
    return bool((shared[0] - expected).abs().max() <= tolerance * expected.abs().max())


def _present(mask: Tensor | None) -> Tensor:
    assert mask is not None
    return mask


def _states(
    network: PreTrainedModel,
    device: torch.device,
    ids: Tensor,
    position_ids: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    more = {"position_ids": position_ids, "attention_mask": mask}
    given = {name: value.to(device) for name, value in more.items() if value is not None}
    return hidden_states(network, input_ids=ids.to(device), **given).float().cpu()


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
    embeddings = network.get_output_embeddings()
    logits = network(input_ids=ids, use_cache=False).logits.float()
    plain = (hidden_states(network, input_ids=ids) @ embeddings.weight.T).float()
    if not torch.allclose(logits, plain, rtol=0.05, atol=0.05 * float(plain.abs().max())):
        raise BadInput(
            f"{type(network).__name__}: its logits are not a product with its head's weights "
            "(a bias, a scale or a soft cap); expected a plain head"
        )
