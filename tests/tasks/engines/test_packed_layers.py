"""Layers as sampling computes them: the trainer's numbers, and the trainer's layers afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from params.update import Update
from tasks.engines.packed_layers import packed_layers, sharing_input
from tasks.policy.hidden_states import hidden_states
from tasks.policy.policy import Policy
from tests.tasks.policy.families import FAMILIES, folder_of
from tests.tasks.rollout_rows import parameters

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13]])


def moved(policy: Policy) -> Policy:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in policy.weights.masters.items():
            if ".lora_B." in name:
                weight.normal_(0.0, 0.1, generator=generator)
    policy.stepped()
    return policy


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "phi3", "gpt_neox", "qwen2_moe"])
def test_the_models_numbers(family: str, adapter: str, dtype: str, tmp_path: Path) -> None:
    assert family in FAMILIES
    update = Update(tokens_per_micro_batch=64, head_chunk=5, lora_rank=2, adapter=adapter)  # type: ignore[arg-type]
    policy = moved(Policy.open(folder_of(family, tmp_path), parameters(update, context=64, dtype=dtype)))
    network = policy.network
    groups = sharing_input(network)
    with torch.inference_mode():
        before = hidden_states(network, input_ids=IDS)
        with packed_layers(network, groups):
            within = hidden_states(network, input_ids=IDS)
        after = hidden_states(network, input_ids=IDS)
    assert torch.equal(before, after)
    exact = dtype == "float32"
    torch.testing.assert_close(within, before, atol=1e-5 if exact else 0.1, rtol=1e-4 if exact else 0.1)
    if family == "qwen2":
        assert [len(group) for group in groups] == [3, 1, 2, 1] * 2  # q k v, o, gate up, down
    policy.close()


def test_weights_are_those_of_now(tmp_path: Path) -> None:
    policy = moved(Policy.open(folder_of("llama", tmp_path), parameters(context=64)))
    groups = sharing_input(policy.network)
    with torch.inference_mode():
        with packed_layers(policy.network, groups):
            first = hidden_states(policy.network, input_ids=IDS)
        policy.restore(None)
        with packed_layers(policy.network, groups):
            base = hidden_states(policy.network, input_ids=IDS)
        with policy.weights.reference() as network:
            expected = hidden_states(network, input_ids=IDS)
            with packed_layers(network, groups):
                without = hidden_states(network, input_ids=IDS)
    assert not torch.allclose(first, base, atol=1e-3)
    torch.testing.assert_close(base, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(without, expected, atol=1e-5, rtol=1e-4)
    policy.close()
