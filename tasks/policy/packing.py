"""How responses are packed into rows: those to one prompt stand behind a single copy of it.

A row holds a prompt of P tokens and, one after the other, its responses without their last tokens (nothing is
predicted from those): P + sum (R - 1) positions instead of sum (P + R). A position sees the prompt and the
earlier positions of its own response; position ids start again after the prompt for each response. Every
response is then computed as if it stood alone behind the prompt.

A micro-batch has one of two layouts. ``flat``: its rows end to end in one sequence without any padding, for
shared-prefix attention (``prefix_attention.py``). Otherwise one below the other, padded on the right, with a
dense mask where a row holds more than one response: for models that compute attention in a way of their own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from params.base import BadInput
from tasks.core.segments import Ids
from tasks.core.segments import places as sampled_places
from tasks.policy.prefix_attention import PrefixRow

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """A prompt and the responses that share it, given by their places in the caller's list."""

    prompt: tuple[int, ...]
    members: tuple[int, ...]
    length: int
    """Its positions."""
    cost: float = 0.0
    """Its computation, in units of one position's in the linear layers."""


@dataclass(frozen=True)
class Cost:
    """The computation of other parts of a row, relative to a position in the linear layers."""

    pair: float = 0.0
    """Attention of one position to another."""
    token: float = 0.0
    """The head, for one response token."""


@dataclass(frozen=True)
class Layout:
    """How rows are made: whether responses share a prompt, and whether rows lie end to end."""

    share: bool = True
    flat: bool = True
    cost: Cost = Cost()


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass computes: B rows of L positions; where they are flat, one row of them all.

    For the t sampled tokens: ``predictor`` [t] is the flat position (row * L + column) whose hidden state
    predicts the token, ``target`` [t] its id and ``index`` [t] its place among the sampled tokens of all
    responses laid end to end.
    """

    input_ids: Tensor
    """[B, L] int64."""
    position_ids: Tensor
    """[B, L] int64."""
    predictor: Tensor
    target: Tensor
    index: Tensor
    prefix_rows: tuple[PrefixRow, ...] | None = None
    """Of the flat layout: which position sees which."""
    mask: Tensor | None = None
    """Of the padded layout: [B, 1, L, L] bool, True where a position sees another; None: plainly causal."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device; ``index`` stays where it is."""
        held: dict[str, Any] = {
            name: x for name, x in vars(self).items() if isinstance(x, Tensor) and name != "index"
        }
        return replace(self, **{name: x.to(device) for name, x in held.items()})


def plan(
    prompts: Sequence[Ids], responses: Sequence[Ids], budget: int, layout: Layout, workers: int = 1
) -> list[list[Row]]:
    """Rows in micro-batches of at most ``budget`` positions, padding included.

    In the flat layout they have about equal cost and, where there are rows enough, their number is a multiple
    of ``workers``, the threads or ranks that share them.

    A group too large for the budget is split over rows. Raises ``BadInput`` when a single sequence exceeds
    the budget, ``ValueError`` for an empty prompt or response.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if not len(prompt) or not len(response):
            raise ValueError(f"sequence {i}: a prompt and a response have at least one token each")
        if len(prompt) + len(response) > budget:
            raise BadInput(
                f"update.tokens_per_micro_batch: {budget} is smaller than a sequence of "
                f"{len(prompt) + len(response)} tokens; expected at least that many"
            )
        groups.setdefault(tuple(prompt), []).append(i)
    rows: list[Row] = []
    for prompt, members in groups.items():
        longest_first = sorted(members, key=lambda i: (-len(responses[i]), i))
        capacity = _capacity(len(prompt), budget, layout)
        for held in _first_fit(longest_first, lambda i: len(responses[i]) - 1, capacity):
            rows.append(_row(prompt, sorted(held), responses, layout))
    rows.sort(key=lambda row: (-row.length, row.members))
    return _flat_batches(rows, budget, workers) if layout.flat else _padded_batches(rows, budget)


def _capacity(prompt: int, budget: int, layout: Layout) -> float:
    """Response positions that one row should hold behind a prompt of P tokens; -1: one response per row.

    Under a dense mask a row of length L costs L + c L^2. With n response positions in it, the cost for each
    is least at n = sqrt(P (P + 1 / c)).
    """
    if not layout.share:
        return -1
    if layout.flat or not layout.cost.pair:
        return budget - prompt
    return min(budget - prompt, math.sqrt(prompt * (prompt + 1.0 / layout.cost.pair)))


def _first_fit(items: Iterable[T], size: Callable[[T], int], capacity: float) -> list[list[T]]:
    """Bins of at most ``capacity``, each item in the first that has room for it."""
    bins: list[list[T]] = []
    for item in items:
        roomy = (b for b in bins if sum(map(size, b)) + size(item) <= capacity)
        place = next(roomy, None)
        if place is None:
            bins.append([item])
        else:
            place.append(item)
    return bins


def _row(prompt: tuple[int, ...], members: list[int], responses: Sequence[Ids], layout: Layout) -> Row:
    lengths = [len(responses[i]) - 1 for i in members]
    length, first = len(prompt) + sum(lengths), len(prompt)
    seen = first * first / 2 + first * sum(lengths) + sum(n * n for n in lengths) / 2
    pairs = seen if layout.flat else length * length
    tokens = sum(lengths) + len(members)
    return Row(prompt, tuple(members), length, length + layout.cost.pair * pairs + layout.cost.token * tokens)


def _padded_batches(rows: list[Row], budget: int) -> list[list[Row]]:
    """Cut rows, sorted by falling length, into micro-batches that pad to their longest."""
    batches: list[list[Row]] = []
    for row in rows:
        if batches and (len(batches[-1]) + 1) * batches[-1][0].length <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _flat_batches(rows: list[Row], budget: int, workers: int) -> list[list[Row]]:
    """About as few micro-batches as first fit finds, the costliest rows spread over them."""
    packed = _first_fit(rows, lambda row: row.length, budget)
    count = min(-(-len(packed) // workers) * workers, len(rows))
    spread: list[list[Row]] = [[] for _ in range(count)]
    for row in sorted(rows, key=lambda row: (-row.cost, row.members)):
        roomy = [b for b in spread if sum(held.length for held in b) + row.length <= budget]
        if not roomy:
            return packed
        min(roomy, key=lambda batch: sum(held.cost for held in batch)).append(row)
    return spread


def build(rows: list[Row], responses: Sequence[Ids], starts: Sequence[int], flat: bool = True) -> MicroBatch:
    """The tensors of one micro-batch; ``starts[i]`` is where response i begins among the sampled tokens
    of all laid end to end."""
    longest = max(row.length for row in rows)
    begins = [0, *itertools.accumulate(row.length if flat else longest for row in rows)][: len(rows)]
    ids: list[list[int]] = []
    position_ids: list[list[int]] = []
    branches: list[list[int]] = []  # 0: the prompt, 1...: the responses
    predictor: list[int] = []
    target: list[int] = []
    index: list[int] = []
    for begin, row in zip(begins, rows, strict=True):
        first = len(row.prompt)
        tokens, places, branch = list(row.prompt), list(range(first)), [0] * first
        for b, i in enumerate(row.members, start=1):
            response = [int(token) for token in responses[i]]
            here, more = begin + len(tokens), len(response) - 1
            own, before = sampled_places(responses[i]), (begin + first - 1, *range(here, here + more))
            predictor += [before[place] for place in own]
            target += [response[place] for place in own]
            index += range(starts[i], starts[i] + len(own))
            tokens += response[:-1]
            places += range(first, first + more)
            branch += [b] * more
        ids.append(tokens)
        position_ids.append(places)
        branches.append(branch)
    predicted = (torch.tensor(predictor), torch.tensor(target), torch.tensor(index))
    prefix_rows, mask = None, None
    if flat:
        ids, position_ids = ([list(itertools.chain(*each))] for each in (ids, position_ids))
        prefix_rows = tuple(
            _prefix_row(begin, row, responses) for begin, row in zip(begins, rows, strict=True)
        )
    elif any(len(row.members) > 1 for row in rows):
        mask = prefix_mask(_padded(branches, -1))
    return MicroBatch(_padded(ids), _padded(position_ids), *predicted, prefix_rows, mask)


def _padded(rows: Sequence[list[int]], filler: int = 0) -> Tensor:
    """[B, L], padded on the right."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=filler)


def _prefix_row(start: int, row: Row, responses: Sequence[Ids]) -> PrefixRow:
    lengths = [len(responses[i]) - 1 for i in row.members]
    if len(lengths) == 1:  # a lone response is the prompt going on
        return PrefixRow.of(start, row.length, [])
    return PrefixRow.of(start, len(row.prompt), lengths)


def prefix_mask(branch: Tensor) -> Tensor:
    """[B, 1, L, L] bool from each position's branch [B, L]: it sees the prompt and its branch, causally."""
    query, key = branch[:, :, None], branch[:, None, :]
    causal = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool).tril()
    return (((key == 0) | (key == query)) & causal)[:, None]
