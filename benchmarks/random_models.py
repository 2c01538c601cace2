"""Models with random weights in the shapes of known ones, and work for them: no download, no data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import shared
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from algorithms import grpo
from algorithms.contract import Hooks
from algorithms.terms import Batch, objective_term
from flows.planner import capacity
from params.load import PRESETS, read_yaml
from params.parts import filled
from tasks.policy.gradient import Step
from tasks.prepare import nano

TINY = capacity.Shape(
    hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocabulary=512, tied=True
)


class Work(NamedTuple):
    """``400x200x8``: tokens of a prompt, tokens of a response, responses of a prompt."""

    prompt: int
    response: int
    samples: int


def shape(name: str) -> capacity.Shape:
    """``tiny``, or one of ``params/shapes.yaml``; refuses others."""
    known = read_yaml(PRESETS / "shapes.yaml")
    if name != "tiny" and name not in known:
        shared.refuse(f"--models: no shape {name}; expected some of {', '.join(known)}, tiny")
    return TINY if name == "tiny" else capacity.Shape(**known[name])


def config(of: capacity.Shape) -> Qwen2Config:
    """A Qwen2 of this shape."""
    return Qwen2Config(
        vocab_size=of.vocabulary,
        hidden_size=of.hidden,
        intermediate_size=of.intermediate,
        num_hidden_layers=of.layers,
        num_attention_heads=of.heads,
        num_key_value_heads=of.kv_heads,
        tie_word_embeddings=of.tied,
        max_position_embeddings=32768,
        use_sliding_window=False,
        bos_token_id=1,
        eos_token_id=2,
    )


def create(folder: Path, of: capacity.Shape, device: torch.device) -> None:
    """A model folder with random weights in bf16, and a tokenizer that nobody asks much of."""
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config(of), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    nano.tokenizer().save_pretrained(folder)


def step(work: Work, groups: int, vocabulary: int) -> Step:
    """Random tokens and advantages under GRPO's loss; no ratio is clipped, no advantage zero."""
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(5, vocabulary, (count,), generator=generator).tolist()

    prompts = [prompt for _ in range(groups) for prompt in [ids(work.prompt)] * work.samples]
    responses = [ids(work.response) for _ in prompts]
    tokens = len(prompts) * work.response
    advantage = torch.randn(len(prompts), generator=generator)
    batch = Batch(
        sequence=torch.arange(len(prompts)).repeat_interleave(work.response),
        behaviour_logp=torch.full((tokens,), -math.log(vocabulary)),
        advantage=advantage.repeat_interleave(work.response),
        importance=torch.ones(tokens),
        fresh=torch.ones(len(prompts), dtype=torch.bool),
        max_tokens=work.response,
    )
    wide = grpo.Config(clip_low=1.0, clip_high=1e9)
    return Step(prompts, responses, batch, [objective_term(batch, filled(Hooks, grpo), wide, "token_mean")])
