"""Attention of responses that are being sampled: a prompt's keys and values are held once for all of them.

A family is a prompt and its responses. Queries attend to their family's prompt in one product and to
their own response in another; the two results and the logarithms of their softmax sums, o_p, l_p and o_r,
l_r, make one:

    o = o_r + sigmoid(l_p - l_r) (o_p - o_r)

Both are torch's flash kernel for CPUs, with sums in float32. Where it was published for GPUs it is called
cascade attention (FlashInfer, arXiv:2501.01005).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

FIRST_TOKENS = 64
"""Tokens of responses that there is room for in the beginning; twice as many whenever that is full."""

_flash: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""What ``scaled_dot_product_attention`` calls on a CPU; it alone says the logarithm of the sum."""


Layer = tuple[Tensor, Tensor, Tensor, Tensor]
"""Keys and values of prompts [F, K, P, D] and of responses [F * G, K, R, D]."""


class Part(NamedTuple):
    """Several tokens of one response."""

    slot: int
    filled: int
    """Tokens of it that are before them."""
    tokens: int


class CascadeCache:
    """Keys and values of F families of at most G responses, in slots: response g of family f has f * G + g.

    A pass of the model calls ``prefill`` or ``decode`` once a layer, in order, after ``begin_prefill`` or
    ``begin_decode``.
    """

    def __init__(self, families: int, members: int, longest_prompt: int, longest_response: int) -> None:
        self._families, self._members = families, members
        self._longest_prompt, self._longest = longest_prompt, longest_response
        self._layers: list[Layer] = []
        self._layer = 0
        self._prompt_mask = torch.zeros(families, 1, 1, longest_prompt)
        self._prompts = [0] * families
        """Tokens of each prompt."""
        self._room = min(FIRST_TOKENS, longest_response)
        self._mask = torch.full((families * members, 1, 1, self._room), -math.inf)

    def begin_prefill(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        """The next pass is of the prompts of these families, end to end."""
        self._layer, self._slots, self._lengths = 0, list(slots), list(lengths)
        for family, length in zip(slots, lengths, strict=True):
            self._prompts[family] = length
            self._prompt_mask[family, ..., :length] = 0.0
            self._prompt_mask[family, ..., length:] = -math.inf
            self._mask[family * self._members : (family + 1) * self._members] = -math.inf

    def begin_decode(self, slots: Tensor, filled: Tensor, longer: Sequence[Part] = ()) -> None:
        """The next pass is of a token of each of these responses [n], behind ``filled`` [n] others; then,
        end to end, of several tokens of each of ``longer``."""
        self._layer, self._rows, self._filled = 0, slots, filled
        self._used = int(filled.max()) + 1 if len(slots) else 0
        room = max([self._used, *(part.filled + part.tokens for part in longer)])
        if room > self._room:
            self._grow(room)
        self._mask[slots, 0, 0, filled] = 0.0
        self._longer = [(part, self._open(part)) for part in longer]
        self._choose(slots)

    def _choose(self, slots: Tensor) -> None:
        """Whether the pass reads all slots where they lie, or copies of the few that it is of."""
        members, kind = self._members, self._layers[0][0].dtype
        self._all = torch.equal(slots, torch.arange(self._families * members))
        self._few = 2 * len(slots) <= self._families * members
        self._count, self._spots = self._families, slots
        seen_prompt, seen = self._prompt_mask, self._mask[..., : self._used]
        if self._few:
            self._present, rank = torch.unique(slots // members, return_inverse=True)
            self._count, self._spots = len(self._present), rank * members + slots % members
            seen_prompt, seen = seen_prompt[self._present], seen[slots]
        self._seen_prompt, self._seen = seen_prompt.to(kind), seen.to(kind)

    def _open(self, part: Part) -> Tensor:
        """What each of its tokens sees [tokens, prompt + own]."""
        self._mask[part.slot, ..., part.filled : part.filled + part.tokens] = 0.0
        before = self._prompts[part.slot // self._members] + part.filled
        return torch.ones(part.tokens, before + part.tokens, dtype=torch.bool).tril(before)

    def prefill(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Query [1, H, L, D], key and value [1, K, L, D] to [1, H, L, D], each prompt for itself."""
        keys, values, *_ = self._of_layer(key)
        out, start = torch.empty_like(query), 0
        for family, length in zip(self._slots, self._lengths, strict=True):
            here = slice(start, start := start + length)
            k, v = key[:, :, here], value[:, :, here]
            keys[family, :, :length], values[family, :, :length] = k[0], v[0]
            out[:, :, here] = functional.scaled_dot_product_attention(
                query[:, :, here], k, v, is_causal=True, scale=scale, enable_gqa=True
            )
        return out

    def decode(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Query [1, H, n, D], key and value [1, K, n, D] to [1, H, n, D]."""
        layer = self._of_layer(key)
        if not self._longer:
            return self._one_each(layer, query, key, value, scale)
        out, start = torch.empty_like(query), len(self._rows)
        if start:
            q, k, v = (x[:, :, :start] for x in (query, key, value))
            out[:, :, :start] = self._one_each(layer, q, k, v, scale)
        for part, seen in self._longer:
            here = slice(start, start := start + part.tokens)
            k, v = self._all_of(layer, part, key[0, :, here], value[0, :, here])
            out[:, :, here] = functional.scaled_dot_product_attention(
                query[:, :, here], k, v, attn_mask=seen, scale=scale, enable_gqa=True
            )
        return out

    def _all_of(self, layer: Layer, part: Part, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [1, K, prompt + own, D], the new ones [K, tokens, D] among them."""
        keys, values, own_keys, own_values = layer
        family, stop = part.slot // self._members, part.filled + part.tokens
        own_keys[part.slot, :, part.filled : stop] = key
        own_values[part.slot, :, part.filled : stop] = value
        prompt = self._prompts[family]
        k = torch.cat([keys[family, :, :prompt], own_keys[part.slot, :, :stop]], 1)
        v = torch.cat([values[family, :, :prompt], own_values[part.slot, :, :stop]], 1)
        return k[None], v[None]

    def _one_each(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        keys, values, own_keys, own_values = layer
        own_keys[self._rows, :, self._filled] = key[0].transpose(0, 1)
        own_values[self._rows, :, self._filled] = value[0].transpose(0, 1)
        own_keys, own_values = own_keys[:, :, : self._used], own_values[:, :, : self._used]
        if self._few:
            keys, values = (x.index_select(0, self._present) for x in (keys, values))
            own_keys, own_values = (x.index_select(0, self._rows) for x in (own_keys, own_values))
        heads, _, width = query.shape[1:]
        count, members, key_heads = self._count, self._members, key.shape[1]
        per_key = heads // key_heads
        q = query[0].transpose(0, 1)
        in_slots = q
        if not self._all:
            in_slots = q.new_zeros(count * members, heads, width).index_copy_(0, self._spots, q)
        grouped = in_slots.reshape(count, members, key_heads, per_key, width).transpose(1, 2)
        to_prompt, sum_prompt = _flash(
            grouped.reshape(count, key_heads, members * per_key, width),
            keys,
            values,
            attn_mask=self._seen_prompt.expand(-1, 1, members * per_key, -1),
            scale=scale,
        )
        to_own, sum_own = _flash(
            (q if self._few else in_slots).reshape(-1, key_heads, per_key, width),
            own_keys,
            own_values,
            attn_mask=self._seen.expand(-1, 1, per_key, -1),
            scale=scale,
        )
        to_prompt = to_prompt.reshape(count, key_heads, members, per_key, width).transpose(1, 2)
        sum_prompt = sum_prompt.reshape(count, key_heads, members, per_key).transpose(1, 2)
        to_prompt, sum_prompt = to_prompt.flatten(0, 1), sum_prompt.flatten(0, 1)
        if self._few:
            to_prompt, sum_prompt = (x.index_select(0, self._spots) for x in (to_prompt, sum_prompt))
        weight = torch.sigmoid(sum_prompt - sum_own.reshape(-1, key_heads, per_key))[..., None]
        to_own = to_own.reshape(-1, key_heads, per_key, width)
        out = torch.lerp(to_own.to(weight.dtype), to_prompt.to(weight.dtype), weight).to(q.dtype)
        out = out.reshape(-1, heads, width)
        return (out if self._all or self._few else out.index_select(0, self._rows)).transpose(0, 1)[None]

    def _of_layer(self, like: Tensor) -> Layer:
        key_heads, width = like.shape[1], like.shape[3]
        if self._layer == len(self._layers):
            prompts = (self._families, key_heads, self._longest_prompt, width)
            own = (self._families * self._members, key_heads, self._room, width)
            zeros = like.new_zeros  # a masked number must not be NaN
            self._layers.append((zeros(prompts), zeros(prompts), zeros(own), zeros(own)))
        self._layer += 1
        return self._layers[self._layer - 1]

    def _grow(self, needed: int) -> None:
        added = max(min(self._room, self._longest - self._room), needed - self._room)
        self._room += added
        self._mask = functional.pad(self._mask, (0, added), value=-math.inf)
        for place, (keys, values, *own) in enumerate(self._layers):
            own_keys, own_values = (functional.pad(x, (0, 0, 0, added)) for x in own)
            self._layers[place] = (keys, values, own_keys, own_values)
