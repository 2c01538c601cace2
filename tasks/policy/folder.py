"""A model as a plain Hugging Face folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

WEIGHTS = "model.safetensors"


def save_folder(network: PreTrainedModel, tokenizer: Any, weights: dict[str, Tensor], folder: Path) -> None:
    """A plain Hugging Face folder of ``weights`` in the type that they have."""
    folder.mkdir(parents=True, exist_ok=True)
    tied = set(getattr(network, "all_tied_weights_keys", None) or ())
    kept = {n: t.detach().cpu().contiguous() for n, t in sorted(weights.items()) if n not in tied}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    config = copy.deepcopy(network.config)
    config.dtype = next(iter(kept.values())).dtype
    config.architectures = [type(network).__name__]
    config.save_pretrained(folder)
    if network.generation_config is not None:
        network.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
