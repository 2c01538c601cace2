"""Opening a base model, a Hugging Face folder: what is wrong with it is said in one line."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from params.base import BadInput
from params.schema import Params
from tasks.policy.chat import Chat, talk


def load_model(base: Path, params: Params, device: torch.device) -> PreTrainedModel:
    """The model in its base type, or its linear layers in 4 bits, with every weight frozen; raises
    ``BadInput``."""
    if not (base / "config.json").is_file():
        raise BadInput(f"{base}: no config.json; expected a Hugging Face model folder")
    if not any(base.glob("*.safetensors")):
        raise BadInput(f"{base}: no weights; expected *.safetensors in the folder")
    logging.disable_progress_bar()
    options: dict[str, Any] = {
        "dtype": getattr(torch, params.model.dtype),
        "use_safetensors": True,
        "trust_remote_code": params.model.trust_remote_code,
        "local_files_only": True,
    }
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(base, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"{base}: not a causal language model that loads: {_first_line(error)}") from error
    frozen: PreTrainedModel = model.requires_grad_(False).eval()
    if params.model.bits == 4:
        importlib.import_module("tasks.policy.four_bits").pack(frozen, device)
    placed: Any = frozen
    return cast(PreTrainedModel, placed.to(device))


def load_tokenizer(base: Path, params: Params) -> Any:
    """The tokenizer; raises ``BadInput`` where it, or its chat template, does not work."""
    if not any(base.glob("tokenizer*")) and not any(base.glob("vocab*")):
        raise BadInput(f"{base}: no tokenizer; expected tokenizer.json in the folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            base, trust_remote_code=params.model.trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{base}: the tokenizer does not load: {_first_line(error)}") from error
    try:
        Chat(tokenizer, params.task.prompt).ids([talk(params.task.prompt, "1 + 1")])
    except BadInput as error:
        raise BadInput(f"{base}: {error}") from None
    return tokenizer


def response_ids(tokenizer: Any, text: str) -> list[int]:
    """What an assistant says, with the token that ends it."""
    return [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by name, on the CPU; raises ``BadInput`` where it is damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path}: not a safetensors file that loads: {_first_line(error)}") from None


def stop_ids(model: PreTrainedModel, tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a response, in order: those of the generation config and the tokenizer's own."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = set(configured if isinstance(configured, list) else [configured])
    return tuple(sorted(int(i) for i in ids | {tokenizer.eos_token_id} if i is not None))


def head_weight(network: PreTrainedModel) -> torch.Tensor:
    """[V, H], the output embeddings."""
    weight: torch.Tensor = network.get_output_embeddings().weight
    return weight


def decoder_layers(network: nn.Module) -> nn.ModuleList:
    """The longest list of modules; raises ``BadInput`` for a model that has none."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise BadInput(f"{type(network).__name__}: has no list of layers; expected a decoder of layers")
    return max(lists, key=len)


def linear_layers(network: PreTrainedModel) -> list[str]:
    """Full names of all linear layers except the head, sorted."""
    head, modules = head_weight(network), network.named_modules()
    return sorted(n for n, m in modules if isinstance(m, nn.Linear) and m.weight is not head)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
