"""What runs as one kernel on a GPU equals its definition; here it runs operation by operation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2 import modeling_qwen2

from tasks.artefacts.artefact import Artefact
from tasks.policy import rms_norm, rotary, swiglu
from tasks.policy.lm_head_fused import fused_head
from tests.tasks.policy.test_packing import opened


@given(st.integers(1, 9), st.integers(2, 11), st.integers(1, 12), st.floats(0.3, 2.0), st.booleans())
@settings(max_examples=50, deadline=None)
def test_the_fused_head_is_a_log_softmax(
    tokens: int, words: int, chunk: int, temperature: float, of_entropy: bool
) -> None:
    generator = torch.Generator().manual_seed(tokens * 31 + words)
    options: dict[str, Any] = {"generator": generator, "dtype": torch.float64, "requires_grad": True}
    hidden, weight = torch.randn(tokens, 3, **options), torch.randn(words, 3, **options)
    target = torch.randint(0, words, (tokens,), generator=generator)
    push = torch.linspace(-1.0, 2.0, tokens, dtype=torch.float64)
    logp, entropy = fused_head(hidden, weight, target, temperature, chunk, of_entropy, True)
    logs = (hidden @ weight.T / temperature).log_softmax(-1)
    exact, exact_entropy = logs.gather(1, target[:, None])[:, 0], -(logs.exp() * logs).sum(-1)
    torch.testing.assert_close(logp, exact)
    torch.testing.assert_close(entropy, exact_entropy)
    found, expected = (push * logp).sum(), (push * exact).sum()
    if of_entropy:
        found, expected = found + (push * entropy).sum(), expected + (push * exact_entropy).sum()
    both = (torch.autograd.grad(loss, (hidden, weight)) for loss in (found, expected))
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_the_gated_product_and_its_derivatives() -> None:
    gate, up = (torch.randn(5, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.testing.assert_close(swiglu.swiglu(gate, up), torch.nn.functional.silu(gate) * up)
    assert torch.autograd.gradcheck(swiglu.swiglu, (gate, up))


def test_the_rotation_and_its_derivative() -> None:
    x = torch.randn(1, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    cos, sin = (torch.randn(1, 4, 8, dtype=torch.float64) for _ in range(2))
    theirs = modeling_qwen2.rotate_half(x) * sin[:, None] + x * cos[:, None]
    torch.testing.assert_close(rotary.rotate(x, x, cos, sin)[0], theirs)
    assert torch.autograd.gradcheck(lambda q: rotary.rotate(q, q, cos, sin), (x,))


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_model_scores_the_same_with_all_of_them(tiny_model: Artefact, adapter: str) -> None:
    prompts, responses = [[3, 4, 5]] * 2, [[6, 7, 8], [9, 4]]
    policy = opened.__wrapped__(tiny_model.path, adapter)
    before = policy.score(prompts, responses, 0.8).logp
    module: Any = __import__("sys").modules[type(policy.network).__module__]
    theirs = module.apply_rotary_pos_emb
    try:
        assert swiglu.speed_up(policy.network) == len(policy.network.base_model.layers)
        assert rotary.speed_up(policy.network) == 1
        assert module.apply_rotary_pos_emb is rotary.rotate
        torch.testing.assert_close(policy.score(prompts, responses, 0.8).logp, before, rtol=1e-5, atol=1e-5)
    finally:
        module.apply_rotary_pos_emb = theirs


def test_what_a_model_computes_otherwise_is_left_alone() -> None:
    class Gated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = (torch.nn.Linear(4, 4) for _ in range(3))
            self.act_fn = torch.nn.GELU()

    class OffsetRMSNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.variance_epsilon = torch.nn.Parameter(torch.zeros(4)), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.rms_norm(x, (4,), 1.0 + self.weight, self.variance_epsilon)

    assert swiglu.speed_up(Gated()) == 0
    assert rms_norm.speed_up(OffsetRMSNorm()) == 0
