"""Attention for short rows on a CPU, where the backward pass of torch's own costs four times the forward's.

Forward is torch's. Backward is written out with whole [L, L] matrices, recomputed and never kept:

    P = softmax(s Q K^T + mask),    dP = g V^T,    dS = s P * (dP - rowsum(P * dP)),
    dV = P^T g,    dQ = dS K,    dK = dS^T Q

Heads that share a key are folded into its queries. Rows longer than ``LONGEST`` keep torch's own backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "short_rows"
LONGEST = 384
"""Positions in a row up to which the matrices fit the caches and this backward is the faster."""


@contextmanager
def for_training(network: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """Use this attention inside the block where gradients are wanted of torch's own on a CPU."""
    config = network.config.get_text_config()
    before = config._attn_implementation
    if before != "sdpa" or device.type != "cpu" or not torch.is_grad_enabled():
        yield
        return
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def short_rows(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' interface: query [B, H, L, D], key and value [B, K, L, D], additive mask [B, 1, L, L]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    plain = dropout == 0.0 and is_causal is not False and more.get("position_bias") is None
    if not plain or query.shape[2] > LONGEST or query.shape[2] != key.shape[2]:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **more
        )
    out = _Attention.apply(query, key, value, attention_mask, scale)
    return out.transpose(1, 2).contiguous(), None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        repeats = query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, is_causal=mask is None
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        query, key, value, mask = ctx.saved_tensors
        batch, heads, length, width = query.shape
        kinds = key.shape[1]
        folded = (batch, kinds, heads // kinds * length, width)
        q, g = query.reshape(folded), grad.reshape(folded)
        p = _weights(q, key, mask, ctx.scale)
        to_value = p.to(g.dtype).transpose(-1, -2) @ g
        bend = (g @ value.transpose(-1, -2)).to(p.dtype).mul_(p)
        bend = torch.addcmul(bend, p, bend.sum(-1, keepdim=True), value=-1.0).mul_(ctx.scale).to(q.dtype)
        to_query = (bend @ key).view(query.shape)
        return to_query, bend.transpose(-1, -2) @ q, to_value, None, None


def _weights(q: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """P [B, K, H/K * L, L] in float32 at least, from folded queries."""
    exact = torch.promote_types(q.dtype, torch.float32)
    length = key.shape[2]
    scores = ((q.to(exact) * scale) @ key.to(exact).transpose(-1, -2)).view(*q.shape[:2], -1, length, length)
    if mask is None:
        later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        scores.masked_fill_(later, -torch.inf)
    else:
        scores += mask[:, :, None].to(exact)
    return scores.softmax(-1).view(*q.shape[:3], length)


AttentionInterface.register(NAME, short_rows)
AttentionMaskInterface.register(NAME, sdpa_mask)
