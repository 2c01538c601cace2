"""Attention over a tree as products of the parts that are seen.

Prompts are taken in blocks of queries, so that most of the upper triangle is skipped; branch positions have
one softmax over the prompt and their own branch. With S = s Q K^T on those parts,

    P = softmax(S),   O = P V,   dP = g V^T,   dS = s P * (dP - rowsum(g * O)),
    dV = P^T g,       dQ = dS K,   dK = dS^T Q

Scores are float32 at least; the other products run in the type of the inputs. Heads that share a key are
folded into its queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasks.policy.prefix_attention import Branches, Kernel, Tree

BLOCK = 128
"""Queries of a prompt taken at once: the upper triangle is skipped but for the blocks on the diagonal."""

KEPT_BYTES = 8 << 20
"""Probabilities of one layer's row up to this size are kept for the backward pass, larger ones recomputed."""


def products(tree: Tree) -> Kernel:
    """The kernel of this file."""

    def kernel(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return _Attention.apply(query[0], key[0], value[0], tree, scale)[None]

    return kernel


class _Attention(torch.autograd.Function):
    """Inside, tensors are [K, L * h, D]: by key head, then position, then the query heads of that key."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, tree: Tree, scale: float) -> Tensor:
        kinds, fold = len(key), len(query) // len(key)
        exact = torch.promote_types(query.dtype, torch.float32)
        q, k = _fold(query, kinds).to(exact), key.to(exact)
        out = torch.empty(q.shape, dtype=query.dtype, device=query.device)
        kept: list[Tensor] = []
        keep = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        for part in _parts(tree, fold):
            p = part.weights(q, k, scale, query.dtype)
            part.write(out, p, value)
            if keep:
                small = sum(x.nbytes for x in p) <= KEPT_BYTES
                kept += p if small else [x.new_empty(0) for x in p]
        ctx.save_for_backward(query, key, value, out, *kept)
        ctx.tree, ctx.scale = tree, scale
        return _unfold(out, query)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        query, key, value, out, *kept = ctx.saved_tensors
        kinds, fold = len(key), len(query) // len(key)
        exact = torch.promote_types(query.dtype, torch.float32)
        q, g = _fold(query, kinds), _fold(grad, kinds)
        along = (g.to(exact) * out.to(exact)).sum(-1, keepdim=True)  # rowsum(g * O)
        inputs = _Inputs(q, key, value, g, along)
        to = _Gradients(torch.empty_like(q), torch.zeros_like(key), torch.zeros_like(value))
        for part in _parts(ctx.tree, fold):
            p, kept = kept[: part.pieces], kept[part.pieces :]
            if not p[0].numel():
                p = part.weights(q.to(exact), key.to(exact), ctx.scale, query.dtype)
            part.turn_back(p, inputs, to)
        return _unfold(to.query.mul_(ctx.scale), query), to.key.mul_(ctx.scale), to.value, None, None


@dataclass(frozen=True)
class _Inputs:
    """Of the backward pass: ``query`` and ``g`` [K, L * h, D], ``key`` and ``value`` [K, L, D], ``along``
    [K, L * h, 1], which is rowsum(g * O)."""

    query: Tensor
    key: Tensor
    value: Tensor
    g: Tensor
    along: Tensor


@dataclass(frozen=True)
class _Gradients:
    """Of query, key and value, in their shapes."""

    query: Tensor
    key: Tensor
    value: Tensor


def _fold(x: Tensor, kinds: int) -> Tensor:
    """[H, L, D] to [K, L * H/K, D]."""
    return x.view(kinds, -1, *x.shape[1:]).transpose(1, 2).flatten(1, 2)


def _unfold(x: Tensor, like: Tensor) -> Tensor:
    """The reverse; a view."""
    return x.view(len(x), like.shape[1], -1, like.shape[2]).transpose(1, 2).flatten(0, 1)


def _parts(tree: Tree, fold: int) -> list[_Stem | _Twigs]:
    parts: list[_Stem | _Twigs] = []
    for row in tree.rows:
        parts += _stems(row, fold)
        if row.responses:
            parts.append(_Twigs(row, fold))
    return parts


def _stems(row: Branches, fold: int) -> list[_Stem]:
    return [
        _Stem(row.start, first, min(first + BLOCK, row.prompt), fold) for first in range(0, row.prompt, BLOCK)
    ]


def _bend(p: Tensor, products: Tensor, along: Tensor) -> Tensor:
    """P * (g V^T - rowsum(g * O)): dS without its scale, in P's type."""
    return products.to(along.dtype).sub_(along).mul_(p).to(p.dtype)


@dataclass(frozen=True)
class _Stem:
    """Queries ``first`` to ``last`` of a prompt at ``start``, and the keys up to them."""

    start: int
    first: int
    last: int
    fold: int
    pieces = 1

    def _mine(self, x: Tensor) -> Tensor:
        return x[:, (self.start + self.first) * self.fold : (self.start + self.last) * self.fold]

    def _seen(self, x: Tensor) -> Tensor:
        return x[:, self.start : self.start + self.last]

    def weights(self, q: Tensor, key: Tensor, scale: float, kind: torch.dtype) -> list[Tensor]:
        """P [K, m * h, j]."""
        scores = _scores(self._mine(q), self._seen(key), scale)
        count = self.last - self.first
        own = scores.view(len(scores), count, self.fold, self.last)[..., self.first :]
        own += _causal(count, scores)
        return [scores.softmax(-1).to(kind)]

    def write(self, out: Tensor, p: list[Tensor], value: Tensor) -> None:
        """P V into its places of ``out``."""
        self._mine(out).copy_(p[0] @ self._seen(value))

    def turn_back(self, p: list[Tensor], x: _Inputs, to: _Gradients) -> None:
        """Write dQ and add dK, dV; dQ and dK still without the scale."""
        g, (weights,) = self._mine(x.g), p
        self._seen(to.value).add_(weights.transpose(1, 2) @ g)
        bend = _bend(weights, g @ self._seen(x.value).transpose(1, 2), self._mine(x.along))
        self._mine(to.query).copy_(bend @ self._seen(x.key))
        self._seen(to.key).add_(bend.transpose(1, 2) @ self._mine(x.query))


@dataclass(frozen=True)
class _Twigs:
    """All branch positions of a row: weights over the prompt, and over the own branch.

    The latter are by branch, [K * G, R * h, R], zero in the rows by which a branch is shorter than R.
    """

    row: Branches
    fold: int
    pieces = 2

    def _mine(self, x: Tensor) -> Tensor:
        first = self.row.start + self.row.prompt
        return x[:, first * self.fold : (first + self.row.responses) * self.fold]

    def _keys(self, x: Tensor) -> Tensor:
        first = self.row.start + self.row.prompt
        return x[:, first : first + self.row.responses]

    def _stem(self, x: Tensor) -> Tensor:
        return x[:, self.row.start : self.row.start + self.row.prompt]

    def _spread(self, x: Tensor, fold: int) -> Tensor:
        """[K, N * f, d] to branches [K * G, R * f, d]; where they are shorter, what stands there is idle."""
        (count, longest), wide = self.row.slots.shape, fold * x.shape[-1]
        found = x.reshape(len(x), -1, wide).index_select(1, self.row.slots.view(-1))
        return found.view(len(x) * count, longest * fold, x.shape[-1])

    def _gather(self, x: Tensor, kinds: int, fold: int) -> Tensor:
        """The reverse: [K * G, R * f, d] to [K, N * f, d]."""
        found = x.reshape(kinds, -1, fold * x.shape[-1]).index_select(1, self.row.places)
        return found.view(kinds, -1, x.shape[-1])

    def weights(self, q: Tensor, key: Tensor, scale: float, kind: torch.dtype) -> list[Tensor]:
        """[K, N * h, P] and [K * G, R * h, R]."""
        kinds, (count, longest) = len(key), self.row.slots.shape
        own = self._mine(q)
        near = _scores(self._spread(own, self.fold), self._spread(self._keys(key), 1), scale)
        near.view(-1, longest, self.fold, longest).add_(_causal(longest, near))
        scores = q.new_empty(kinds, own.shape[1], self.row.prompt + longest)
        _scores(own, self._stem(key), scale, scores[..., : self.row.prompt])
        scores[..., self.row.prompt :] = self._gather(near, kinds, self.fold)
        p = scores.softmax(-1)
        wide = self.fold * longest
        padded = torch.zeros(kinds, count * longest, wide, dtype=kind, device=p.device)
        mine = p[..., self.row.prompt :].reshape(kinds, -1, wide).to(kind)
        padded.index_copy_(1, self.row.places, mine)
        return [p[..., : self.row.prompt].to(kind), padded.view(-1, longest * self.fold, longest)]

    def write(self, out: Tensor, p: list[Tensor], value: Tensor) -> None:
        """P V into its places of ``out``."""
        far, near = p
        own = near @ self._spread(self._keys(value), 1)
        torch.add(far @ self._stem(value), self._gather(own, len(value), self.fold), out=self._mine(out))

    def turn_back(self, p: list[Tensor], x: _Inputs, to: _Gradients) -> None:
        """Write dQ and add dK, dV; dQ and dK still without the scale."""
        (far, near), g, along, q = p, self._mine(x.g), self._mine(x.along), self._mine(x.query)
        self._stem(to.value).add_(far.transpose(1, 2) @ g)
        bend = _bend(far, g @ self._stem(x.value).transpose(1, 2), along)
        self._stem(to.key).add_(bend.transpose(1, 2) @ q)
        to_query, kinds = self._mine(to.query), len(x.key)
        to_query.copy_(bend @ self._stem(x.key))

        spread = self._spread(g, self.fold)
        values = near.transpose(1, 2) @ spread
        self._keys(to.value).add_(self._gather(values, kinds, 1))
        products = spread @ self._spread(self._keys(x.value), 1).transpose(1, 2)
        bend = _bend(near, products, self._spread(along, self.fold))
        keys = bend.transpose(1, 2) @ self._spread(q, self.fold)
        self._keys(to.key).add_(self._gather(keys, kinds, 1))
        to_query.add_(self._gather(bend @ self._spread(self._keys(x.key), 1), kinds, self.fold))


def _causal(count: int, like: Tensor) -> Tensor:
    """[m, 1, m] to be added to scores: -inf where a key comes after its query."""
    shut = torch.full((count, count), -math.inf, dtype=like.dtype, device=like.device).triu_(1)
    return shut[:, None]


def _scores(q: Tensor, key: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """s Q K^T."""
    blank = torch.zeros((), dtype=q.dtype, device=q.device)
    return torch.baddbmm(blank, q, key.transpose(1, 2), beta=0.0, alpha=scale, out=out)
