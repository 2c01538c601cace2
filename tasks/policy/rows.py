"""How responses lie in rows: those of one prompt stand behind a single copy of it, under a tree mask.

A row holds a prompt of P tokens and, one after the other, its responses without their last tokens (nothing is
predicted from those): P + sum (R - 1) positions instead of sum (P + R). A position sees the prompt and the
earlier positions of its own response; position ids start again after the prompt for each response. Every
response is then computed as if it stood alone behind the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from params import BadInput

Ids = Sequence[int]


@dataclass(frozen=True)
class Row:
    """A prompt and the responses that share it, given by their places in the caller's list."""

    prompt: tuple[int, ...]
    members: tuple[int, ...]
    length: int
    """Positions."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows of about one length, padded on the right: what one forward pass computes.

    For the t response tokens: ``at`` [t] is the flat position (row * L + column) whose hidden state predicts
    the token, ``target`` [t] its id and ``index`` [t] its place among all responses laid end to end.
    """

    input_ids: Tensor
    """[B, L] int64."""
    position_ids: Tensor
    """[B, L] int64."""
    mask: Tensor | None
    """[B, 1, L, L] bool, True where a position sees another; None: plainly causal."""
    at: Tensor
    target: Tensor
    index: Tensor

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device; ``index`` stays where it is."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            mask=None if self.mask is None else self.mask.to(device),
            at=self.at.to(device),
            target=self.target.to(device),
        )


def plan(
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    budget: int,
    share: bool = True,
    balance: float = math.inf,
) -> list[list[Row]]:
    """Rows, longest first, in micro-batches of at most ``budget`` positions, padding included.

    ``share=False`` gives every response a row of its own. ``balance`` is the row length at which attention
    costs as much as everything else; a row takes no more responses than make it cheaper. A group too large
    for the budget is split over rows. Raises ``BadInput`` when a single sequence exceeds the budget,
    ``ValueError`` for an empty prompt or response.
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
        row
        for prompt, members in groups.items()
        for row in _fill(prompt, members, responses, _room(len(prompt), budget, share, balance))
    ]
    rows.sort(key=lambda row: (-row.length, row.members))
    return _pack(rows, budget)


def _room(prompt: int, budget: int, share: bool, balance: float) -> float:
    """Response positions that one row should hold behind a prompt of P tokens.

    A row of length L costs L + L^2 / K. With n response positions in it, the cost for each is least at
    n = sqrt(P (P + K)).
    """
    return min(budget - prompt, math.sqrt(prompt * (prompt + balance))) if share else 0


def _fill(prompt: tuple[int, ...], members: list[int], responses: Sequence[Ids], room: float) -> list[Row]:
    """First fit, longest first. ``room`` 0: one response a row."""
    bins: list[tuple[list[int], int]] = []
    for i in sorted(members, key=lambda i: (-len(responses[i]), i)):
        need = len(responses[i]) - 1
        fits = (b for b, (_, used) in enumerate(bins) if room > 0 and used + need <= room)
        place = next(fits, None)
        if place is None:
            bins.append(([i], need))
        else:
            bins[place] = ([*bins[place][0], i], bins[place][1] + need)
    return [Row(prompt, tuple(sorted(held)), len(prompt) + used) for held, used in bins]


def _pack(rows: list[Row], budget: int) -> list[list[Row]]:
    """Cut rows, sorted by falling length, into micro-batches."""
    batches: list[list[Row]] = []
    for row in rows:
        if batches and (len(batches[-1]) + 1) * batches[-1][0].length <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def build(rows: list[Row], responses: Sequence[Ids], starts: Sequence[int]) -> MicroBatch:
    """The tensors of one micro-batch; ``starts[i]`` is where response i begins among all laid end to end."""
    length = max(row.length for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    positions = torch.zeros_like(ids)
    branch = torch.full_like(ids, -1)  # 0: prompt, 1...: the response, -1: padding
    at: list[int] = []
    target: list[int] = []
    index: list[int] = []
    for r, row in enumerate(rows):
        first = len(row.prompt)
        tokens, places, branches = list(row.prompt), list(range(first)), [0] * first
        for b, i in enumerate(row.members, start=1):
            response = [int(token) for token in responses[i]]
            here, more = r * length + len(tokens), len(response) - 1
            at += [r * length + first - 1, *range(here, here + more)]
            target += response
            index += range(starts[i], starts[i] + more + 1)
            tokens += response[:-1]
            places += range(first, first + more)
            branches += [b] * more
        ids[r, : row.length] = torch.tensor(tokens)
        positions[r, : row.length] = torch.tensor(places)
        branch[r, : row.length] = torch.tensor(branches)
    alone = all(len(row.members) == 1 for row in rows)
    if alone:
        positions = torch.arange(length).expand(len(rows), length)
    mask = None if alone else tree_mask(branch)
    return MicroBatch(ids, positions, mask, torch.tensor(at), torch.tensor(target), torch.tensor(index))


def tree_mask(branch: Tensor) -> Tensor:
    """[B, 1, L, L] bool from the branch of every position [B, L]: the stem and one's own branch, causally."""
    query, key = branch[:, :, None], branch[:, None, :]
    causal = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool).tril()
    return (((key == 0) | (key == query)) & causal)[:, None]
