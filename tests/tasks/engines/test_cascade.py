"""Attention of responses under way, against the plain definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tasks.engines import cascade
from tasks.engines.cascade import CascadeCache, Part

HEADS, KEY_HEADS, WIDTH, LAYERS = 4, 2, 8, 2
SCALE = 0.3


def plain(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """[H, D], [K, T, D] twice to [H, D], in float64."""
    k, v = (x.double().repeat_interleave(HEADS // KEY_HEADS, 0) for x in (keys, values))
    return torch.einsum("ht,htd->hd", (SCALE * torch.einsum("hd,htd->ht", query.double(), k)).softmax(-1), v)


class Talk:
    """Draws keys, values and queries, remembers all of them, and compares."""

    def __init__(self, cache: CascadeCache, dtype: torch.dtype) -> None:
        self.cache, self.dtype = cache, dtype
        self.generator = torch.Generator().manual_seed(3)
        self.past: dict[int, list[tuple[Tensor, Tensor]]] = {}
        """Of each slot, layer by layer: keys and values [K, T, D]."""
        self.filled: dict[int, int] = {}

    def draw(self, heads: int, tokens: int) -> Tensor:
        return torch.randn(1, heads, tokens, WIDTH, generator=self.generator).to(self.dtype)

    def prefill(self, lengths: dict[int, int], members: int) -> None:
        self.cache.begin_prefill(list(lengths), list(lengths.values()))
        for layer in range(LAYERS):
            total = sum(lengths.values())
            q, k, v = self.draw(HEADS, total), self.draw(KEY_HEADS, total), self.draw(KEY_HEADS, total)
            out, start = self.cache.prefill(q, k, v, SCALE), 0
            for family, length in lengths.items():
                for place in range(length):
                    seen = slice(start, start + place + 1)
                    expected = plain(q[0, :, start + place], k[0, :, seen], v[0, :, seen])
                    self.close(out[0, :, start + place], expected)
                here = slice(start, start := start + length)
                for slot in range(family * members, (family + 1) * members):
                    self.past.setdefault(slot, [])
                    self.past[slot][layer:] = [(k[0, :, here], v[0, :, here])]
                    self.filled[slot] = 0

    def decode(self, slots: list[int], longer: dict[int, int] | None = None) -> None:
        """A token of each of ``slots``, and of others as many as ``longer`` says."""
        parts = [Part(slot, self.filled[slot], tokens) for slot, tokens in (longer or {}).items()]
        filled = torch.tensor([self.filled[slot] for slot in slots], dtype=torch.long)
        self.cache.begin_decode(torch.tensor(slots, dtype=torch.long), filled, parts)
        places = [*slots, *(part.slot for part in parts for _ in range(part.tokens))]
        for layer in range(LAYERS):
            count = len(places)
            q, k, v = self.draw(HEADS, count), self.draw(KEY_HEADS, count), self.draw(KEY_HEADS, count)
            out = self.cache.decode(q, k, v, SCALE)
            for place, slot in enumerate(places):
                keys, values = self.past[slot][layer]
                keys = torch.cat([keys, k[0, :, place, None]], 1)
                values = torch.cat([values, v[0, :, place, None]], 1)
                self.past[slot][layer] = (keys, values)
                self.close(out[0, :, place], plain(q[0, :, place], keys, values))
        for slot in places:
            self.filled[slot] += 1

    def close(self, found: Tensor, expected: Tensor) -> None:
        exact = self.dtype == torch.float32
        torch.testing.assert_close(
            found.double(), expected, atol=1e-6 if exact else 0.03, rtol=1e-5 if exact else 0.03
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_the_plain_one_whoever_is_there(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of several lengths, responses that end, families that follow others in their place, and more
    tokens than there was room for at first."""
    monkeypatch.setattr(cascade, "FIRST_TOKENS", 2)
    talk = Talk(CascadeCache(families=3, members=2, longest_prompt=7, longest_response=9), dtype)
    talk.prefill({0: 7, 2: 1}, 2)
    for slots in ([0, 1, 4, 5], [0, 1, 4, 5], [1, 4, 5], [5]):
        talk.decode(slots)
    talk.prefill({0: 3, 1: 5}, 2)  # family 0 is another one now
    for slots in ([0, 1, 2, 3, 4, 5], [4, 5, 0, 1, 2, 3], [0, 2, 3, 5], [3], [3], [3], [3, 2, 0]):
        talk.decode(slots)
    assert max(talk.filled.values()) > 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_tokens_see_what_came_before_them(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside single ones and by themselves, behind a prompt alone and behind more, and beyond what there was
    to be room for."""
    monkeypatch.setattr(cascade, "FIRST_TOKENS", 2)
    talk = Talk(CascadeCache(families=3, members=2, longest_prompt=7, longest_response=9), dtype)
    talk.prefill({0: 7, 2: 1}, 2)
    talk.decode([0, 4, 5], {1: 3})
    talk.decode([], {4: 2, 0: 5})
    talk.decode([5, 1, 0, 4])
    talk.prefill({1: 4}, 2)
    talk.decode([1], {3: 1, 5: 9})
    talk.decode([2, 3, 4, 5, 0, 1])
    assert max(talk.filled.values()) > 9


def test_what_is_not_there_counts_for_nothing() -> None:
    """Very large keys of an earlier family and of padding stay unseen."""
    cache = CascadeCache(families=1, members=1, longest_prompt=4, longest_response=4)
    for size, prompt in ((1e4, 4), (1.0, 1)):
        cache.begin_prefill([0], [prompt])
        x = torch.full((1, 1, prompt, 4), size)
        cache.prefill(x, x, x, 1.0)
        cache.begin_decode(torch.tensor([0]), torch.tensor([0]))
        found = cache.decode(*(torch.full((1, 1, 1, 4), size) for _ in range(3)), 1.0)
        assert float(found.max()) == pytest.approx(size)
        assert not math.isnan(float(found.sum()))
