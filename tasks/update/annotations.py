"""What auxiliary terms want to know of responses before an update: steps, entropies, draws, the base."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import torch
from torch import Tensor

from algorithms.contract import Hooks
from params.base import BadInput, Config
from tasks.core import seeds
from tasks.core.segments import counts, known
from tasks.core.stage import Job
from tasks.policy.boundaries import closed
from tasks.policy.policy import Policy
from tasks.update.responses import Responses

Parts = Sequence[tuple[Hooks, Config]]
"""A method's terms, with their options."""

Wish = TypeVar("Wish")


def annotated(given: Responses, terms: Parts, job: Job, policy: Policy) -> Responses:
    """The same responses with what ``terms`` ask for, and no work where none asks.

    Raises ``BadInput`` where the rollouts hold no entropies, or two terms ask for different things.
    """
    found: dict[str, Any] = {}
    closes = _agreed("boundary", [p.boundary(c) for p, c in terms if p.boundary])
    if closes is not None:
        found["boundary"] = closed(policy.tokenizer, closes, given.responses)
    source = _agreed("entropy_from", [p.entropy_from(c) for p, c in terms if p.entropy_from])
    if source == "stored":
        found["entropy"] = _stored(given, job.inputs["rollout"].file("rollouts.parquet"))
    elif source == "policy":
        found["entropy"] = _scored(given, terms, policy, job.params.rollout.temperature)
    if any(p.draws(c) for p, c in terms if p.draws):
        found["chance"] = _draws(given, job)
    if any(p.reference(c) for p, c in terms if p.reference):
        temperature = job.params.rollout.temperature
        scores = policy.score(given.prompts, given.responses, temperature, reference=True)
        found["reference_logp"] = list(scores.split(scores.logp))
    return dataclasses.replace(given, **found) if found else given


def _agreed(what: str, wishes: Sequence[Wish | None]) -> Wish | None:
    """What the terms want of this kind, which they must agree on; None where none wants any."""
    known = {wish for wish in wishes if wish is not None}
    if len(known) > 1:
        raise BadInput(f"method.terms: two of them differ in {what}; expected one for all")
    return known.pop() if known else None


def _unknown(given: Responses) -> list[Tensor]:
    return [torch.full((count,), math.nan) for count in counts(given.responses)]


def _stored(given: Responses, path: Path) -> list[Tensor]:
    """The fresh responses' entropies, which stand in the table in the same order."""
    table = pq.ParquetFile(path).read(columns=["reward", "entropy"])
    column = table.filter(table["reward"].is_valid())["entropy"]
    if column.null_count:
        raise BadInput(
            f"{path}: holds no entropies; expected them for a term with entropy: stored "
            "(rollout.entropy: true keeps them; entropy: policy does without)"
        )
    found = _unknown(given)
    for place, values in enumerate(column.to_pylist()):
        found[place] = torch.tensor(known(values), dtype=torch.float32)
    return found


def _scored(given: Responses, terms: Parts, policy: Policy, temperature: float) -> list[Tensor]:
    """Those of the policy before the update, for the responses that the terms name."""
    named = torch.zeros(len(given.responses), dtype=torch.bool)
    for part, config in terms:
        if part.candidates and part.entropy_from and part.entropy_from(config) == "policy":
            named |= part.candidates(given.reward, given.group, given.fresh, config)
    members = named.nonzero().squeeze(1).tolist()
    found = _unknown(given)
    if members:
        prompts, responses = [given.prompts[i] for i in members], [given.responses[i] for i in members]
        scores = policy.score(prompts, responses, temperature, entropy=True)
        assert scores.entropy is not None
        for place, values in zip(members, scores.split(scores.entropy), strict=True):
            found[place] = values
    return found


def _draws(given: Responses, job: Job) -> Tensor:
    """For each response a number in [0, 1) of (run seed, round, problem, sample)."""
    parts = zip(given.problem, given.sample, strict=True)
    drawn = [seeds.seed(job.params.seed, "update", job.round, "draw", p, s) >> 10 for p, s in parts]
    return torch.tensor(drawn, dtype=torch.float64) / 2.0**53
