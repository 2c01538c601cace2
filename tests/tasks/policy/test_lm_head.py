"""The chunked head equals a plain log-softmax over all logits, in value and in gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from tasks.policy import lm_head as module
from tasks.policy.lm_head import head


def sample(tokens: int, width: int, words: int, seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(words, width, generator=generator, dtype=dtype, requires_grad=True)
    target = torch.randint(0, words, (tokens,), generator=generator)
    return hidden, weight, target


@given(
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(2, 11),
    st.integers(1, 12),
    st.floats(0.3, 2.0),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_values_and_gradients_are_those_of_the_definition(
    tokens: int, width: int, words: int, chunk: int, temperature: float, entropy_gradient: bool
) -> None:
    hidden, weight, target = sample(tokens, width, words, tokens * 31 + words, torch.float64)
    out = head(
        hidden, weight, target, temperature, chunk, entropy_gradient=entropy_gradient, entropy=True, ranks=2
    )
    logs = (hidden @ weight.T / temperature).log_softmax(-1)
    logp = logs.gather(1, target[:, None])[:, 0]
    entropy = -(logs.exp() * logs).sum(-1)
    assert out.entropy is not None
    assert out.ranks is not None
    torch.testing.assert_close(out.logp, logp)
    torch.testing.assert_close(out.entropy, entropy)
    torch.testing.assert_close(out.ranks, logs.exp().topk(2).values)
    push = torch.linspace(-1.0, 2.0, tokens, dtype=torch.float64)
    found, expected = (push * out.logp).sum(), (push * logp).sum()
    if entropy_gradient:
        found, expected = found + (push * out.entropy).sum(), expected + (push * entropy).sum()
    else:
        assert not out.entropy.requires_grad
    pairs = zip(
        torch.autograd.grad(found, (hidden, weight)),
        torch.autograd.grad(expected, (hidden, weight)),
        strict=True,
    )
    for ours, exact in pairs:
        torch.testing.assert_close(ours, exact)


def test_a_certain_token_keeps_the_digits_of_its_gradient() -> None:
    hidden = torch.tensor([[12.0, 0.0]], requires_grad=True)
    weight = torch.eye(2)
    head(hidden, weight, torch.tensor([0]), 1.0, 8).logp.sum().backward()
    missing = 1.0 / (1.0 + torch.exp(torch.tensor(12.0)))
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, torch.stack([missing, -missing])[None], rtol=0.02, atol=0.0)


def test_bfloat16_gives_float32_without_gradient_when_none_is_wanted() -> None:
    hidden, weight, target = sample(5, 4, 9, 0, torch.float32)
    with torch.no_grad():
        out = head(hidden.bfloat16(), weight.bfloat16(), target, 1.0, 2)
    assert out.logp.dtype == torch.float32
    assert not out.logp.requires_grad
    assert out.entropy is None
    assert out.ranks is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logits_of_all_tokens_are_never_held(dtype: torch.dtype) -> None:
    """No product has more rows than a chunk, nothing after it more than a slice of the caches."""
    tokens, words, chunk = 64, 4096, 4
    hidden, weight, target = sample(tokens, 2, words, 0, dtype)
    sizes: list[int] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = function(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                sizes.append(made.numel())
            return made

    with Watch():
        head(hidden, weight, target, 1.0, chunk).logp.sum().backward()
    assert words <= max(sizes) <= 3 * chunk * words


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_other_words_and_small_slices(tokens: int, count: int, rows: int) -> None:
    """Log-probabilities of words besides the target, whatever the caches hold."""
    hidden, weight, target = sample(tokens, 4, 11, tokens, torch.float64)
    others = torch.arange(tokens * count).view(tokens, count) % 11
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SLICE_BYTES", rows * 11 * 8)
        patch.setattr(module, "CHUNK_BYTES", 2 * rows * 11 * 8)
        out = head(hidden, weight, target, 0.7, 99, others=others, entropy_gradient=True)
        assert out.entropy is not None
        found = torch.autograd.grad(out.logp.sum() + out.entropy.sum(), (hidden, weight))
    logs = (hidden @ weight.T / 0.7).log_softmax(-1)
    assert out.others is not None
    assert not out.others.requires_grad
    torch.testing.assert_close(out.others, logs.gather(1, others).detach())
    plain = logs.gather(1, target[:, None]).sum() - (logs.exp() * logs).sum()
    for ours, exact in zip(found, torch.autograd.grad(plain, (hidden, weight)), strict=True):
        torch.testing.assert_close(ours, exact)
