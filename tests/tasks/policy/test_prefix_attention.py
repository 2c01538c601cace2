"""Shared-prefix attention equals torch's own under the dense mask, in value and in gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tasks.artefacts.artefact import Artefact
from tasks.policy import prefix_attention, prefix_attention_products
from tasks.policy.packing import prefix_mask
from tasks.policy.policy import Policy
from tests.tasks.rollout_rows import parameters

ROWS = st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(0, 5), max_size=4)), min_size=1, max_size=3)


def laid(rows: list[tuple[int, list[int]]]) -> tuple[list[prefix_attention.PrefixRow], torch.Tensor]:
    """These rows, and the same as a mask [L, L] to be added."""
    start, branches, blocks = 0, [], []
    for prompt, lengths in rows:
        branches.append(prefix_attention.PrefixRow.of(start, prompt, lengths))
        branch = torch.tensor([0] * prompt + [b for b, n in enumerate(lengths, 1) for _ in range(n)])
        blocks.append(prefix_mask(branch[None])[0, 0])
        start += len(branch)
    return branches, torch.block_diag(*blocks).bool()


def both(
    rows: list[tuple[int, list[int]]], kinds: int, repeats: int, dtype: torch.dtype, seed: int = 0
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Output and the gradients of query, key and value: ours, and torch's in float64."""
    own, seen = laid(rows)
    generator = torch.Generator().manual_seed(seed)
    sizes = [(kinds * repeats, len(seen), 8), (kinds, len(seen), 8), (kinds, len(seen), 8)]
    drawn = [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]
    push = torch.randn(sizes[0], generator=generator, dtype=torch.float64).to(dtype)
    ours = [x.clone().requires_grad_(True) for x in drawn]
    exact = [x.double().requires_grad_(True) for x in drawn]
    found = prefix_attention_products._Attention.apply(*ours, own, 0.3)
    q, k, v = exact
    mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill_(~seen, -math.inf)
    k, v = (x.repeat_interleave(repeats, dim=0) for x in (k, v))
    plain = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
    gradients = torch.autograd.grad(found, ours, push)
    return [
        (found, plain),
        *zip(gradients, torch.autograd.grad(plain, exact, push.double()), strict=True),
    ]


@given(
    ROWS,
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.booleans(),
    st.integers(1, 4),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_values_and_gradients_are_torchs(
    rows: list[tuple[int, list[int]]],
    kinds: int,
    repeats: int,
    kept: int,
    padded: bool,
    block: int,
    seed: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_attention_products, "BLOCK", block)
        patch.setattr(prefix_attention_products, "KEPT_BYTES", (0, 400, 1 << 20)[kept])
        patch.setattr(prefix_attention_products, "KEPT_PARTS", 2)
        patch.setattr(prefix_attention_products, "PADDED_BYTES", 1 << 28 if padded else 0)
        for ours, plain in both(rows, kinds, repeats, torch.float64, seed):
            torch.testing.assert_close(ours, plain)


class Largest(TorchDispatchMode):
    """The largest tensor that an operation makes, in bytes."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.bytes = max([self.bytes, *(x.nbytes for x in tree_leaves(made) if isinstance(x, torch.Tensor))])
        return made


@pytest.mark.parametrize("branches", [[10_000, 2_000], [2_048] * 6, [6_144] * 3])
def test_no_part_outgrows_its_bound_however_long_the_branches(branches: list[int]) -> None:
    rows = [prefix_attention.PrefixRow.of(0, 1024, branches)]
    positions = 1024 + sum(branches)
    with FakeTensorMode(allow_non_fake_inputs=True):
        query = torch.empty(12, positions, 128, dtype=torch.bfloat16, requires_grad=True)
        key, value = (torch.empty(2, positions, 128, dtype=torch.bfloat16, requires_grad=True) for _ in "kv")
        with Largest() as largest:
            out = prefix_attention_products._Attention.apply(query, key, value, rows, 0.1)
            kept = sum(x.nbytes for x in out.grad_fn.saved_tensors[4:])
            out.backward(torch.empty_like(out))
    block = 4 * 12 * prefix_attention_products.BLOCK * (1024 + max(branches))
    inputs = 4 * 12 * 128 * positions  # the queries themselves in float32
    assert largest.bytes <= max(block, inputs, prefix_attention_products.PADDED_BYTES)
    assert kept <= prefix_attention_products.KEPT_PARTS * prefix_attention_products.KEPT_BYTES


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_lower_precision_stays_near_the_exact_values(dtype: torch.dtype, tolerance: float) -> None:
    for ours, plain in both([(150, [9, 1, 30]), (5, [])], 2, 3, dtype):
        assert float((ours.double() - plain).detach().abs().max()) <= tolerance * float(
            plain.detach().abs().max()
        )


def test_products_of_bf16_values_lose_nothing_on_the_way_to_the_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 70, 64, generator=generator).bfloat16() for _ in range(2))
    with prefix_attention._exact_products(q.dtype):
        scores = prefix_attention_products._scores(q.float(), k.float(), 0.125)
    torch.testing.assert_close(
        scores.double(), q.double() @ k.double().transpose(1, 2) / 8, rtol=0.0, atol=1e-5
    )
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"  # type: ignore[attr-defined]


def test_the_model_keeps_its_own_attention_outside(tiny_model: Artefact) -> None:
    policy = Policy.open(tiny_model.path, parameters())
    before = policy.network.config._attn_implementation
    policy.score([[5, 6]], [[7]], 1.0)
    assert policy.network.config._attn_implementation == before != prefix_attention.NAME
    with pytest.raises(prefix_attention.Unsupported, match="outside use_kernel"):
        prefix_attention.attention(None, *(torch.zeros(1, 1, 1, 4) for _ in range(3)), None)
