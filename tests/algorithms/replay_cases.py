"""Batches with replayed responses, and buffers of a few rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from algorithms.drawing import Fresh
from algorithms.replay_buffer import ReplayBuffer
from algorithms.terms import Batch, Signals, Term

LENGTHS = (3, 2, 4, 1, 5)
FRESH = (True, True, False, True, False)


def batch(**more: Any) -> Batch:
    """Five responses of one to five tokens, the third and the last of them replayed; float64."""
    generator = torch.Generator().manual_seed(0)
    sequence = torch.arange(5).repeat_interleave(torch.tensor(LENGTHS))
    given: dict[str, Any] = {
        "sequence": sequence,
        "behaviour_logp": -2.0 + 0.5 * torch.randn(15, generator=generator, dtype=torch.float64),
        "advantage": torch.tensor([0.5, -1.0, 0.7, 0.0, 0.0])[sequence],
        "importance": torch.ones(15),
        "fresh": torch.tensor(FRESH),
        "max_tokens": 10,
        "age": torch.tensor([0, 0, 2, 0, 5]),
        "group": torch.tensor([0, 0, -1, 1, -1]),
    }
    return Batch(**{**given, **more})


def values(term: Term, logp: Tensor, entropy: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """The term's loss [] over the whole batch, and its metrics."""
    loss, metrics = term.token_loss(Signals(logp, entropy), torch.arange(len(logp)))
    return (term.scale * loss).sum(), metrics


def slope(term: Term, logp: Tensor) -> Tensor:
    """The gradient [T] of the term at ``logp``."""
    moving = logp.clone().requires_grad_(True)
    loss, _ = values(term, moving)
    (found,) = torch.autograd.grad(loss, moving)
    return found


def stored(rows: Sequence[tuple[str, float]], results: Sequence[tuple[str, int, int]] = ()) -> ReplayBuffer:
    """A buffer of (problem, reward) rows, and (problem, right answers, samples) of the last groups."""
    table = pa.table(
        {
            "problem_id": [problem for problem, _ in rows],
            "reward": pa.array([reward for _, reward in rows], pa.float32()),
            "sample": list(range(len(rows))),
            "round": [1] * len(rows),
        }
    )
    columns = list(zip(*results, strict=True)) or [(), (), ()]
    last = pa.table(
        {
            "problem_id": pa.array(columns[0], pa.string()),
            "correct": pa.array(columns[1], pa.int32()),
            "samples": pa.array(columns[2], pa.int32()),
        }
    )
    return ReplayBuffer(table=table, results=last)


def fresh(problems: Sequence[str], missing: int = 0, samples: int = 2) -> Fresh:
    """``samples`` responses to each problem."""
    group = torch.arange(len(problems)).repeat_interleave(samples)
    return Fresh(
        problem=[problem for problem in problems for _ in range(samples)],
        group=group,
        reward=torch.zeros(len(group)),
        missing=torch.full((len(group),), missing),
    )


def chance(seed: int = 0) -> torch.Generator:
    """A seeded generator."""
    return torch.Generator().manual_seed(seed)


def no_entropy(rows: pa.Table) -> Tensor:
    """For methods that must not ask."""
    raise AssertionError("asked for entropies")
