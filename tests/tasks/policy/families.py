"""Tiny random models of the usual families, as plain Hugging Face folders with the character tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
)

from tasks.prepare import nano

WORDS = nano.tokenizer()
SHAPE: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "bos_token_id": WORDS.bos_token_id,
    "eos_token_id": WORDS.eos_token_id,
    "pad_token_id": WORDS.pad_token_id,
}
HEAD = {**SHAPE, "head_dim": 16}
EXPERTS = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4}
NEOX = {name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}
GPT2 = {
    "vocab_size": len(WORDS),
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 128,
    **{name: SHAPE[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
}
FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**HEAD),
    "llama": lambda: LlamaConfig(**SHAPE),
    "gemma": lambda: GemmaConfig(**HEAD),
    "gemma2": lambda: Gemma2Config(**HEAD),
    "gemma3": lambda: Gemma3TextConfig(**HEAD, sliding_window=8),
    "phi3": lambda: Phi3Config(**SHAPE),
    "gpt_neox": lambda: GPTNeoXConfig(**NEOX),
    "mistral-window": lambda: MistralConfig(**HEAD, sliding_window=8),
    "gpt2": lambda: GPT2Config(**GPT2),
    "mixtral": lambda: MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": lambda: Qwen2MoeConfig(**SHAPE, **EXPERTS, num_experts_per_tok=2),
}


def folder_of(family: str, folder: Path, tokenizer: Any = None, **changed: Any) -> Path:
    """A random model of that family; ``changed`` are fields of its configuration."""
    config = FAMILIES[family]()
    for name, value in changed.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    (tokenizer or WORDS).save_pretrained(folder)
    return folder
