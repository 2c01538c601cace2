"""Shared-prefix attention by flash kernels, with the kernels' definition in their place: no GPU is needed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn import functional

from tasks.policy import prefix_attention, prefix_attention_flash
from tests.tasks.policy.test_prefix_attention import ROWS, laid

CPU = torch.device("cpu")


def sequences_of(chosen: Any) -> Iterator[tuple[slice, slice]]:
    """The queries and keys of each sequence, which the ends give."""
    ends = zip(chosen.query_ends.tolist(), chosen.key_ends.tolist(), strict=True)
    for (first, first_key), (last, last_key) in pairwise(ends):
        assert last - first <= chosen.longest_query
        assert last_key - first_key <= chosen.longest_key
        yield slice(first, last), slice(first_key, last_key)


def scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """[H, m, j]; the mask is aligned with the ends, as that of the kernel."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    found = scale * torch.einsum("mhd,jhd->hmj", query, key)
    count, keys = found.shape[1:]
    hidden = torch.ones(count, keys, dtype=torch.bool).triu_(keys - count + 1)
    return found.masked_fill(hidden, -math.inf)


def forward(
    query: Tensor, key: Tensor, value: Tensor, chosen: Any, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    out, total = torch.empty_like(query), query.new_empty(query.shape[1], len(query))
    value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    for own, read in sequences_of(chosen):
        s = scores(query[own], key[read], scale)
        total[:, own] = s.logsumexp(-1)
        out[own] = torch.einsum("hmj,jhd->mhd", s.softmax(-1), value[read])
    return out, total, torch.zeros(2, dtype=torch.uint8)


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    total: Tensor,
    random: Tensor,
    chosen: Any,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    to = [torch.zeros_like(x) for x in (query, key, value)]
    times = query.shape[1] // key.shape[1]
    for own, read in sequences_of(chosen):
        p = (scores(query[own], key[read], scale) - total[:, own, None]).exp()
        wide_key, wide_value = (x[read].repeat_interleave(times, dim=1) for x in (key, value))
        dp = torch.einsum("mhd,jhd->hmj", grad[own], wide_value)
        ds = p * (dp - (grad[own] * out[own]).sum(-1).T[..., None]) * scale
        to[0][own] = torch.einsum("hmj,jhd->mhd", ds, wide_key)
        for target, product in ((to[1], (ds, query[own])), (to[2], (p, grad[own]))):
            wide = torch.einsum("hmj,mhd->jhd", *product)
            target[read] = wide.unflatten(1, (-1, times)).sum(2)
    return to[0], to[1], to[2]


@given(ROWS)
@settings(max_examples=40, deadline=None)
def test_values_and_gradients_are_those_under_the_dense_mask(rows: list[tuple[int, list[int]]]) -> None:
    own, seen = laid(rows)
    generator = torch.Generator().manual_seed(0)
    sizes = [(1, 4, len(seen), 8), (1, 2, len(seen), 8), (1, 2, len(seen), 8), (1, 4, len(seen), 8)]
    *drawn, push = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    ours, exact = ([x.clone().requires_grad_(True) for x in drawn] for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_attention_flash, "flash_forward", forward)
        patch.setattr(prefix_attention_flash, "flash_backward", backward)
        found = prefix_attention.kernel("flash", own, CPU)(ours[0], ours[1], ours[2], 0.3)
        gradients = torch.autograd.grad(found, ours, push)
    q, k, v = exact
    mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill_(~seen, -math.inf)
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    plain = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
    torch.testing.assert_close(found, plain)
    for mine, theirs in zip(gradients, torch.autograd.grad(plain, exact, push), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_the_fastest_kernel_fits_device_and_type() -> None:
    cuda = torch.device("cuda")
    assert prefix_attention.fastest(cuda, torch.bfloat16, 128) == "flash"
    assert prefix_attention.fastest(cuda, torch.float32, 128) == "products"
    assert prefix_attention.fastest(cuda, torch.bfloat16, 512) == "products"
    assert prefix_attention.fastest(CPU, torch.bfloat16, 128) == "products"
