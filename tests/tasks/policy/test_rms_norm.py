"""The written-out RMS norm equals transformers' own in value and gradient, and replaces nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tasks.policy import rms_norm


def made(kind: type[nn.Module], width: int, dtype: torch.dtype) -> nn.Module:
    module = kind(width).to(dtype)
    with torch.no_grad():
        module.weight.copy_(torch.linspace(0.5, 1.5, width))  # type: ignore[operator]
    return module


@given(st.integers(1, 5), st.integers(1, 9), st.floats(0.01, 100.0), st.booleans())
@settings(max_examples=40, deadline=None)
def test_values_and_gradients_are_the_models_own(rows: int, width: int, size: float, twice: bool) -> None:
    plain, quick = (made(LlamaRMSNorm, width, torch.float32) for _ in range(2))
    assert rms_norm.speed_up(quick) == 1
    shape = (2, rows, width) if twice else (rows, width)
    x = size * torch.randn(shape, generator=torch.Generator().manual_seed(rows * 10 + width))
    push = torch.linspace(-1.0, 1.0, x.numel()).view(shape)
    found = []
    for module in (plain, quick):
        given_x = x.clone().requires_grad_(True)
        y = module(given_x)
        found.append((y, *torch.autograd.grad((y * push).sum(), (given_x, module.weight))))
        assert torch.equal(given_x.detach(), x)
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_bfloat16_rounds_where_the_model_does() -> None:
    plain, quick = (made(LlamaRMSNorm, 64, torch.bfloat16) for _ in range(2))
    rms_norm.speed_up(quick)
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.testing.assert_close(quick(x), plain(x), rtol=0.01, atol=0.0)


@pytest.mark.parametrize("kind", [GemmaRMSNorm, nn.LayerNorm])
def test_other_norms_stay(kind: type[nn.Module]) -> None:
    """Gemma scales by 1 + w."""
    assert rms_norm.speed_up(made(kind, 8, torch.float32)) == 0
