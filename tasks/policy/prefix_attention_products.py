"""Shared-prefix attention by matrix products over the parts that positions see, and no others.

Prompts are taken in blocks of queries, so that most of the upper triangle is skipped; branch positions have
one softmax over the prompt and their own branch. All branches of a row are one part, padded to the longest,
where that is small; else each goes in blocks of queries, too, so that no part is larger than a block's scores
or ``PADDED_BYTES``. With S = s Q K^T on those parts,

    P = softmax(S),   O = P V,   dP = g V^T,   dS = s P * (dP - rowsum(g * O)),
    dV = P^T g,       dQ = dS K,   dK = dS^T Q

Scores are float32 at least; the other products run in the type of the inputs. Query heads
that share a key head (h of them) are laid side by side as further queries of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tasks.policy.prefix_attention import Kernel, PrefixRow

BLOCK = 128
"""Queries of a prompt taken at once: the upper triangle is skipped but for the blocks on the diagonal."""

KEPT_BYTES = 8 << 20
"""Probabilities of a part up to this size are kept for the backward pass, larger ones computed again."""
KEPT_PARTS = 16
"""And no more than so many times that of one layer's parts together."""
PADDED_BYTES = 256 << 20
"""Scores of a row's branches, padded to the longest, up to this size are one part."""


def kernel(rows: Sequence[PrefixRow], device: torch.device) -> Kernel:
    """The kernel for a sequence of these rows."""
    rows = [row.to(device) for row in rows]

    def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        apply: Callable[..., Tensor] = _Attention.apply
        return apply(query[0], key[0], value[0], rows, scale)[None]

    return attend


class _Attention(torch.autograd.Function):
    """Queries inside are [K, L * h, D]: by key head, then position, then the query heads of that key head."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: Sequence[PrefixRow], scale: float
    ) -> Tensor:
        key_heads, per_key = len(key), len(query) // len(key)
        exact = torch.promote_types(query.dtype, torch.float32)
        q, k = _fold(query, key_heads).to(exact), key.to(exact)
        out = torch.empty(q.shape, dtype=query.dtype, device=query.device)
        kept: list[Tensor] = []
        keep = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        room = KEPT_PARTS * KEPT_BYTES
        for part in _parts(rows, len(query), per_key):
            p = part.probabilities(q, k, scale, query.dtype)
            part.write(out, p, value)
            if keep:
                size = sum(x.nbytes for x in p)
                small = size <= min(KEPT_BYTES, room)
                room -= size if small else 0
                kept += p if small else [x.new_empty(0) for x in p]
        ctx.save_for_backward(query, key, value, out, *kept)
        ctx.rows, ctx.scale = rows, scale
        return _unfold(out, query)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        query, key, value, out, *kept = ctx.saved_tensors
        key_heads, per_key = len(key), len(query) // len(key)
        exact = torch.promote_types(query.dtype, torch.float32)
        q, g = _fold(query, key_heads), _fold(grad, key_heads)
        row_dot = (g.to(exact) * out.to(exact)).sum(-1, keepdim=True)  # rowsum(g * O)
        inputs = _Tensors(q, key, value)
        to = _Tensors(torch.empty_like(q), torch.zeros_like(key), torch.zeros_like(value))
        for part in _parts(ctx.rows, len(query), per_key):
            p, kept = kept[: part.matrices], kept[part.matrices :]
            if not p[0].numel():
                p = part.probabilities(q.to(exact), key.to(exact), ctx.scale, query.dtype)
            part.backward(p, inputs, g, row_dot, to)
        return _unfold(to.query.mul_(ctx.scale), query), to.key.mul_(ctx.scale), to.value, None, None


class _Tensors(NamedTuple):
    """What attention reads, or their gradients: ``query`` [K, L * h, D], ``key`` and ``value`` [K, L, D]."""

    query: Tensor
    key: Tensor
    value: Tensor


def _fold(x: Tensor, key_heads: int) -> Tensor:
    """[H, L, D] to [K, L * h, D], h = H / K."""
    return x.view(key_heads, -1, *x.shape[1:]).transpose(1, 2).flatten(1, 2)


def _unfold(x: Tensor, like: Tensor) -> Tensor:
    """[K, L * h, D] to [H, L, D], a view."""
    return x.view(len(x), like.shape[1], -1, like.shape[2]).transpose(1, 2).flatten(0, 1)


def _parts(rows: Sequence[PrefixRow], heads: int, per_key: int) -> list[_QueryBlock | _ResponseBranches]:
    parts: list[_QueryBlock | _ResponseBranches] = []
    for row in rows:
        parts += _blocks(row.start, row.prompt, (), per_key)
        count, longest = row.padded.shape
        if 4 * heads * count * longest * (row.prompt + 2 * longest) > PADDED_BYTES:
            first = row.start + row.prompt
            for length in row.branches:
                parts += _blocks(first, length, ((row.start, row.start + row.prompt),), per_key)
                first += length
        elif row.responses:
            parts.append(_ResponseBranches(row, per_key))
    return parts


def _blocks(start: int, count: int, before: tuple[tuple[int, int], ...], per_key: int) -> list[_QueryBlock]:
    """Of the ``count`` positions from ``start`` on, which see those of ``before`` and themselves causally."""
    ends = [*range(start + BLOCK, start + count, BLOCK), start + count] if count else []
    return [
        _QueryBlock(first, end, (*before, (start, end)), per_key)
        for first, end in zip([start, *ends], ends, strict=False)
    ]


def _score_gradient(p: Tensor, products: Tensor, row_dot: Tensor) -> Tensor:
    """P * (g V^T - rowsum(g * O)): dS without its scale, in P's type."""
    return products.to(row_dot.dtype).sub_(row_dot).mul_(p).to(p.dtype)


@dataclass(frozen=True)
class _QueryBlock:
    """Queries ``first`` to ``end``, and the keys of the spans ``seen``; the last ends with the queries."""

    first: int
    end: int
    seen: tuple[tuple[int, int], ...]
    per_key: int
    matrices = 1

    def _queries(self, x: Tensor) -> Tensor:
        return x[:, self.first * self.per_key : self.end * self.per_key]

    def _keys(self, x: Tensor) -> Tensor:
        spans = [x[:, start:end] for start, end in self.seen]
        return spans[0] if len(spans) == 1 else torch.cat(spans, 1)

    def _add_to_keys(self, to: Tensor, values: Tensor) -> None:
        sizes = [end - start for start, end in self.seen]
        for (start, end), part in zip(self.seen, values.split(sizes, 1), strict=True):
            to[:, start:end].add_(part)

    def probabilities(self, q: Tensor, key: Tensor, scale: float, kind: torch.dtype) -> list[Tensor]:
        """P [K, m * h, j]."""
        scores = _scores(self._queries(q), self._keys(key), scale)
        count, keys = self.end - self.first, scores.shape[-1]
        own = scores.view(len(scores), count, self.per_key, keys)[..., keys - count :]
        own += _causal(count, scores)
        return [scores.softmax(-1).to(kind)]

    def write(self, out: Tensor, p: list[Tensor], value: Tensor) -> None:
        """Write P V into the part of ``out`` that is of these queries."""
        self._queries(out).copy_(p[0] @ self._keys(value))

    def backward(self, p: list[Tensor], x: _Tensors, g: Tensor, row_dot: Tensor, to: _Tensors) -> None:
        """Write dQ and add dK, dV; dQ and dK still without the scale."""
        g, row_dot, (weights,) = self._queries(g), self._queries(row_dot), p
        self._add_to_keys(to.value, weights.transpose(1, 2) @ g)
        ds = _score_gradient(weights, g @ self._keys(x.value).transpose(1, 2), row_dot)
        self._queries(to.query).copy_(ds @ self._keys(x.key))
        self._add_to_keys(to.key, ds.transpose(1, 2) @ self._queries(x.query))


@dataclass(frozen=True)
class _ResponseBranches:
    """All branch positions of a row: probabilities over the prompt, and over the own branch.

    The latter are by branch, [K * G, R * h, R], and zero in the rows of its padding.
    """

    row: PrefixRow
    per_key: int
    matrices = 2

    def _own(self, x: Tensor, per_key: int) -> Tensor:
        """Of the branches: [K, L * f, D] to [K, N * f, D]."""
        first = self.row.start + self.row.prompt
        return x[:, first * per_key : (first + self.row.responses) * per_key]

    def _prompt(self, x: Tensor) -> Tensor:
        return x[:, self.row.start : self.row.start + self.row.prompt]

    def _pad(self, x: Tensor, per_key: int) -> Tensor:
        """[K, N * f, d] to padded branches [K * G, R * f, d]; what stands in the padding is not used."""
        (count, longest), wide = self.row.padded.shape, per_key * x.shape[-1]
        found = x.reshape(len(x), -1, wide).index_select(1, self.row.padded.view(-1))
        return found.view(len(x) * count, longest * per_key, x.shape[-1])

    def _unpad(self, x: Tensor, key_heads: int, per_key: int) -> Tensor:
        """The reverse: [K * G, R * f, d] to [K, N * f, d]."""
        found = x.reshape(key_heads, -1, per_key * x.shape[-1]).index_select(1, self.row.unpadded)
        return found.view(key_heads, -1, x.shape[-1])

    def probabilities(self, q: Tensor, key: Tensor, scale: float, kind: torch.dtype) -> list[Tensor]:
        """[K, N * h, P] and [K * G, R * h, R]."""
        key_heads, (count, longest) = len(key), self.row.padded.shape
        own = self._own(q, self.per_key)
        to_own = _scores(self._pad(own, self.per_key), self._pad(self._own(key, 1), 1), scale)
        to_own.view(-1, longest, self.per_key, longest).add_(_causal(longest, to_own))
        scores = q.new_empty(key_heads, own.shape[1], self.row.prompt + longest)
        _scores(own, self._prompt(key), scale, scores[..., : self.row.prompt])
        scores[..., self.row.prompt :] = self._unpad(to_own, key_heads, self.per_key)
        p = scores.softmax(-1)
        wide = self.per_key * longest
        padded = torch.zeros(key_heads, count * longest, wide, dtype=kind, device=p.device)
        own_weights = p[..., self.row.prompt :].reshape(key_heads, -1, wide).to(kind)
        padded.index_copy_(1, self.row.unpadded, own_weights)
        return [p[..., : self.row.prompt].to(kind), padded.view(-1, longest * self.per_key, longest)]

    def write(self, out: Tensor, p: list[Tensor], value: Tensor) -> None:
        """Write P V into the part of ``out`` that is of these queries."""
        to_prompt, to_own = p
        own = self._unpad(to_own @ self._pad(self._own(value, 1), 1), len(value), self.per_key)
        torch.add(to_prompt @ self._prompt(value), own, out=self._own(out, self.per_key))

    def backward(self, p: list[Tensor], x: _Tensors, g: Tensor, row_dot: Tensor, to: _Tensors) -> None:
        """Write dQ and add dK, dV; dQ and dK still without the scale."""
        to_prompt, to_own = p
        g, row_dot, q = (self._own(each, self.per_key) for each in (g, row_dot, x.query))
        self._prompt(to.value).add_(to_prompt.transpose(1, 2) @ g)
        ds = _score_gradient(to_prompt, g @ self._prompt(x.value).transpose(1, 2), row_dot)
        self._prompt(to.key).add_(ds.transpose(1, 2) @ q)
        to_query, key_heads = self._own(to.query, self.per_key), len(x.key)
        to_query.copy_(ds @ self._prompt(x.key))

        padded = self._pad(g, self.per_key)
        values = to_own.transpose(1, 2) @ padded
        self._own(to.value, 1).add_(self._unpad(values, key_heads, 1))
        products = padded @ self._pad(self._own(x.value, 1), 1).transpose(1, 2)
        ds = _score_gradient(to_own, products, self._pad(row_dot, self.per_key))
        keys = ds.transpose(1, 2) @ self._pad(q, self.per_key)
        self._own(to.key, 1).add_(self._unpad(keys, key_heads, 1))
        to_query.add_(self._unpad(ds @ self._pad(self._own(x.key, 1), 1), key_heads, self.per_key))


def _causal(count: int, like: Tensor) -> Tensor:
    """[m, 1, m] to be added to scores: -inf where a key comes after its query."""
    mask = torch.full((count, count), -math.inf, dtype=like.dtype, device=like.device).triu_(1)
    return mask[:, None]


def _scores(q: Tensor, key: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """s Q K^T [K, m, j]."""
    ignored = torch.zeros((), dtype=q.dtype, device=q.device)
    return torch.baddbmm(ignored, q, key.transpose(1, 2), beta=0.0, alpha=scale, out=out)
