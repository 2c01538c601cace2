"""The written-out backward pass equals torch's own, and stands in for it only where it should."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tasks.artefact import Artefact
from tasks.policy import Policy, attention
from tasks.policy.rows import tree_mask
from tests.tasks.rollout_rows import parameters


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 9),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_values_and_gradients_are_torchs(
    batch: int, kinds: int, repeats: int, length: int, tree: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(heads: int) -> torch.Tensor:
        made = torch.randn(batch, heads, length, 4, generator=generator, dtype=torch.float64)
        return made.requires_grad_(True)

    query, key, value = draw(kinds * repeats), draw(kinds), draw(kinds)
    mask = None
    if tree:
        branch = torch.randint(0, 3, (batch, length), generator=generator)
        mask = torch.zeros(batch, 1, length, length).double().masked_fill_(~tree_mask(branch), -math.inf)
    module = torch.nn.Module()
    found, _ = attention.short_rows(module, query, key, value, mask, scaling=0.3)
    full = [x.repeat_interleave(repeats, dim=1) for x in (key, value)]
    plain = functional.scaled_dot_product_attention(
        query, *full, attn_mask=mask, is_causal=mask is None, scale=0.3
    ).transpose(1, 2)
    torch.testing.assert_close(found, plain)
    push = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad(found, (query, key, value), push)
    for one, two in zip(ours, torch.autograd.grad(plain, (query, key, value), push), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("longest", [0, 384])
def test_it_is_used_for_short_rows_in_training_alone(
    tiny_model: Artefact, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    policy = Policy.open(tiny_model.path, parameters())
    used: list[Any] = []
    original = attention._Attention.apply
    monkeypatch.setattr(attention, "LONGEST", longest)
    monkeypatch.setattr(attention._Attention, "apply", lambda *args: used.append(args) or original(*args))
    policy.score([[5, 6]], [[7]], 1.0)
    assert not used
    with attention.for_training(policy.network, policy.device):
        policy.network(input_ids=torch.tensor([[5, 6, 7]]))
    assert bool(used) == (longest > 0)
    assert policy.network.config._attn_implementation == "sdpa"
