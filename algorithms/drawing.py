"""What a replay method draws from the buffer for an update, and what it says of the next round's problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor

Entropy = Callable[[pa.Table], Tensor]
_ROUNDING = 1e-9
"""A product such as 0.05 * 160 that rounds to just above a whole number still is that number."""


@dataclass(frozen=True)
class Fresh:
    """This round's S judged responses."""

    problem: list[str]
    """The problem of each."""
    group: Tensor
    """[S] int64: responses to one problem share a number."""
    reward: Tensor
    """[S] float32."""
    missing: Tensor
    """[S] int64: by how many its group was sampled short, so that replayed responses can fill it up."""

    hints: pa.Table | None = None
    """Of each group that had one: the hint that stood before its answers, as the response of a row."""

    def problems(self) -> dict[int, str]:
        """The problem of each group, in order of first appearance."""
        return dict(zip(self.group.tolist(), self.problem, strict=True))


@dataclass(frozen=True)
class Drawn:
    """Rows of the buffer and their place in the update."""

    rows: pa.Table
    group: Tensor
    """[R] int64: the fresh group that each joins; -1: none, for ``aside`` or with an ``advantage``."""
    into: Literal["aside", "objective", "denominator"]
    """``aside``: for the method's term alone. ``objective``: has an advantage, standardised jointly with its
    group, and the objective's loss. ``denominator``: has an advantage and counts in the objective's
    denominator; its loss is the method's term's."""
    anchor: Literal["stored", "current"] = "stored"
    """What a ratio is taken to: the log-probabilities of birth, or those of the policy before this update."""
    advantage: Tensor | None = None
    """[R] float32, for rows that join no group and yet have the objective's loss; None: the group's."""


@dataclass(frozen=True)
class ReplayedProblems:
    """What the buffer says of the next round's problems."""

    replayed: list[str]
    """Problems answered once less, as a stored response joins their group."""
    retired: frozenset[str]
    """Problems not asked any more."""


def reached(share: float, count: int) -> int:
    """The least number that is no less than ``share`` * ``count``."""
    return math.ceil(share * count - _ROUNDING)


def rows_by_problem(rows: pa.Table) -> dict[str, list[int]]:
    """Positions of each problem's rows, in order."""
    found: dict[str, list[int]] = {}
    for place, problem in enumerate(rows["problem_id"].to_pylist() if rows.num_rows else ()):
        found.setdefault(problem, []).append(place)
    return found


def picked(rows: pa.Table, places: Sequence[int]) -> pa.Table:
    """Those rows, in that order."""
    return rows.take(pa.array(places, pa.int64()))


def join_groups(
    rows: pa.Table, fresh: Fresh, count: int, generator: torch.Generator
) -> tuple[pa.Table, Tensor]:
    """``count`` random rows of each fresh problem, or all where it has fewer, and the group [n] int64 that
    each of them joins."""
    known = rows_by_problem(rows)
    taken: list[int] = []
    groups: list[int] = []
    for group, problem in fresh.problems().items():
        mine = known.get(problem, [])
        order = torch.randperm(len(mine), generator=generator)[:count]
        taken += [mine[i] for i in order.tolist()]
        groups += [group] * len(order)
    return picked(rows, taken), torch.tensor(groups, dtype=torch.int64)
