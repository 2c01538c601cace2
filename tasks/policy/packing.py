"""How responses lie in rows: those of one prompt stand behind a single copy of it.

A row holds a prompt of P tokens and, one after the other, its responses without their last tokens (nothing is
predicted from those): P + sum (R - 1) positions instead of sum (P + R). A position sees the prompt and the
earlier positions of its own response; position ids start again after the prompt for each response. Every
response is then computed as if it stood alone behind the prompt.

Rows come to the model in one of two layouts. ``flat``: end to end in one sequence without any padding, for
the attention that knows their tree (``tree.py``). Otherwise one below the other, padded on the right, with a
dense mask where a row holds more than one response: for models that compute attention in a way of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from params.base import BadInput
from tasks.policy.prefix_attention import Branches, Tree

Ids = Sequence[int]


@dataclass(frozen=True)
class Row:
    """A prompt and the responses that share it, given by their places in the caller's list."""

    prompt: tuple[int, ...]
    members: tuple[int, ...]
    length: int
    """Positions."""
    cost: float = 0.0
    """Work, in units of one position's."""


@dataclass(frozen=True)
class Cost:
    """What parts of a row cost beside a position of it, which costs 1."""

    pair: float = 0.0
    """One position that sees another, in attention."""
    token: float = 0.0
    """One response token, in the head."""


@dataclass(frozen=True)
class Layout:
    """How rows are made: whether responses share a prompt, and whether rows lie end to end."""

    share: bool = True
    flat: bool = True
    cost: Cost = Cost()


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass computes: B rows of L positions; where they are flat, one row of them all.

    For the t response tokens: ``at`` [t] is the flat position (row * L + column) whose hidden state predicts
    the token, ``target`` [t] its id and ``index`` [t] its place among all responses laid end to end.
    """

    input_ids: Tensor
    """[B, L] int64."""
    position_ids: Tensor
    """[B, L] int64."""
    at: Tensor
    target: Tensor
    index: Tensor
    tree: Tree | None = None
    """Of flat rows: what sees what."""
    mask: Tensor | None = None
    """Of padded rows: [B, 1, L, L] bool, True where a position sees another; None: plainly causal."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device; ``index`` stays where it is."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            at=self.at.to(device),
            target=self.target.to(device),
            tree=None if self.tree is None else self.tree.to(device),
            mask=None if self.mask is None else self.mask.to(device),
        )


def plan(
    prompts: Sequence[Ids], responses: Sequence[Ids], budget: int, layout: Layout, lanes: int = 1
) -> list[list[Row]]:
    """Rows in micro-batches of at most ``budget`` positions, padding included, of about equal cost; where
    there are rows enough, as many for each of the ``lanes``.

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
    rows = [
        _row(prompt, held, responses, layout)
        for prompt, members in groups.items()
        for held in _fill(members, responses, _room(len(prompt), budget, layout))
    ]
    rows.sort(key=lambda row: (-row.length, row.members))
    return _balanced(rows, budget, lanes) if layout.flat else _stacked(rows, budget)


def _room(prompt: int, budget: int, layout: Layout) -> float:
    """Response positions that one row should hold behind a prompt of P tokens; 0: one response a row.

    Under a dense mask a row of length L costs L + c L^2. With n response positions in it, the cost for each
    is least at n = sqrt(P (P + 1 / c)).
    """
    if not layout.share:
        return 0
    if layout.flat or not layout.cost.pair:
        return budget - prompt
    return min(budget - prompt, math.sqrt(prompt * (prompt + 1.0 / layout.cost.pair)))


def _fill(members: list[int], responses: Sequence[Ids], room: float) -> list[list[int]]:
    """First fit, longest first."""
    bins: list[tuple[list[int], int]] = []
    for i in sorted(members, key=lambda i: (-len(responses[i]), i)):
        need = len(responses[i]) - 1
        fits = (b for b, (_, used) in enumerate(bins) if room > 0 and used + need <= room)
        place = next(fits, None)
        if place is None:
            bins.append(([i], need))
        else:
            bins[place] = ([*bins[place][0], i], bins[place][1] + need)
    return [sorted(held) for held, _ in bins]


def _row(prompt: tuple[int, ...], members: list[int], responses: Sequence[Ids], layout: Layout) -> Row:
    lengths = [len(responses[i]) - 1 for i in members]
    length, first = len(prompt) + sum(lengths), len(prompt)
    seen = first * first / 2 + first * sum(lengths) + sum(n * n for n in lengths) / 2
    pairs = seen if layout.flat else length * length
    tokens = sum(lengths) + len(members)
    return Row(prompt, tuple(members), length, length + layout.cost.pair * pairs + layout.cost.token * tokens)


def _stacked(rows: list[Row], budget: int) -> list[list[Row]]:
    """Cut rows, sorted by falling length, into micro-batches that pad to their longest."""
    batches: list[list[Row]] = []
    for row in rows:
        if batches and (len(batches[-1]) + 1) * batches[-1][0].length <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _balanced(rows: list[Row], budget: int, lanes: int) -> list[list[Row]]:
    """About as few micro-batches as first fit finds, the costliest rows spread over them."""
    packed: list[list[Row]] = []
    for row in rows:
        place = next((b for b in packed if _positions(b) + row.length <= budget), None)
        if place is None:
            packed.append([row])
        else:
            place.append(row)
    count = min(-(-len(packed) // lanes) * lanes, len(rows))
    spread: list[list[Row]] = [[] for _ in range(count)]
    for row in sorted(rows, key=lambda row: (-row.cost, row.members)):
        roomy = [b for b in spread if _positions(b) + row.length <= budget]
        if not roomy:
            return packed
        min(roomy, key=lambda batch: sum(held.cost for held in batch)).append(row)
    return spread


def _positions(rows: list[Row]) -> int:
    return sum(row.length for row in rows)


@dataclass(frozen=True)
class _Laid:
    """One row's positions and, for each response token, the position that predicts it."""

    ids: list[int]
    places: list[int]
    branch: list[int]
    """0: the prompt, 1...: the responses."""
    at: list[int]
    target: list[int]
    index: list[int]


def _lay(row: Row, responses: Sequence[Ids], starts: Sequence[int]) -> _Laid:
    first = len(row.prompt)
    laid = _Laid(list(row.prompt), list(range(first)), [0] * first, [], [], [])
    for b, i in enumerate(row.members, start=1):
        response = [int(token) for token in responses[i]]
        here, more = len(laid.ids), len(response) - 1
        laid.at.extend((first - 1, *range(here, here + more)))
        laid.target.extend(response)
        laid.index.extend(range(starts[i], starts[i] + more + 1))
        laid.ids.extend(response[:-1])
        laid.places.extend(range(first, first + more))
        laid.branch.extend([b] * more)
    return laid


def build(rows: list[Row], responses: Sequence[Ids], starts: Sequence[int], flat: bool = True) -> MicroBatch:
    """The tensors of one micro-batch; ``starts[i]`` is where response i begins among all laid end to end."""
    laid = [_lay(row, responses, starts) for row in rows]
    target = torch.tensor([token for one in laid for token in one.target])
    index = torch.tensor([place for one in laid for place in one.index])
    if flat:
        begins = [0]
        for one in laid:
            begins.append(begins[-1] + len(one.ids))
        return MicroBatch(
            input_ids=torch.tensor([[token for one in laid for token in one.ids]]),
            position_ids=torch.tensor([[place for one in laid for place in one.places]]),
            at=torch.tensor([begin + at for begin, one in zip(begins, laid, strict=False) for at in one.at]),
            target=target,
            index=index,
            tree=Tree(
                tuple(_branches(begin, row, responses) for begin, row in zip(begins, rows, strict=False))
            ),
        )
    length = max(row.length for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    positions = torch.arange(length).repeat(len(rows), 1)
    branch = torch.full_like(ids, -1)
    for r, one in enumerate(laid):
        ids[r, : len(one.ids)] = torch.tensor(one.ids)
        positions[r, : len(one.ids)] = torch.tensor(one.places)
        branch[r, : len(one.ids)] = torch.tensor(one.branch)
    return MicroBatch(
        input_ids=ids,
        position_ids=positions,
        at=torch.tensor([r * length + at for r, one in enumerate(laid) for at in one.at]),
        target=target,
        index=index,
        mask=None if all(len(row.members) == 1 for row in rows) else tree_mask(branch),
    )


def _branches(start: int, row: Row, responses: Sequence[Ids]) -> Branches:
    lengths = [len(responses[i]) - 1 for i in row.members]
    if len(lengths) == 1:  # a lone response is the prompt going on
        return Branches.of(start, row.length, [])
    return Branches.of(start, len(row.prompt), lengths)


def tree_mask(branch: Tensor) -> Tensor:
    """[B, 1, L, L] bool from the branch of every position [B, L]: the stem and one's own branch, causally."""
    query, key = branch[:, :, None], branch[:, None, :]
    causal = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool).tril()
    return (((key == 0) | (key == query)) & causal)[:, None]
