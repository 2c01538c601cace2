"""What auxiliary terms want to know of responses before an update: steps, entropies, draws, the base."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor

from algorithms.terms import Boundary
from params.base import BadInput, Config
from tasks.core import seeds
from tasks.core.stage import Job
from tasks.policy.policy import Policy
from tasks.update.responses import Answers

Parts = Sequence[tuple[ModuleType, Config]]
"""The modules of a method's terms, with their options."""


def annotated(answers: Answers, terms: Parts, job: Job, policy: Policy) -> Answers:
    """The same answers with what ``terms`` ask for, and no work where none asks.

    Raises ``BadInput`` where the rollouts hold no entropies, or two terms ask for different things.
    """
    found: dict[str, Any] = {}
    closes = _asked("boundary", terms)
    if closes is not None:
        found["boundary"] = _boundaries(answers, boundary_table(policy.tokenizer, closes))
    source = _asked("entropy_from", terms)
    if source == "stored":
        found["entropy"] = _stored(answers, job.inputs["rollout"].file("rollouts.parquet"))
    elif source == "policy":
        found["entropy"] = _scored(answers, terms, policy, job.params.rollout.temperature)
    if _asked("draws", terms):
        found["chance"] = _draws(answers, job)
    if _asked("reference", terms):
        found["reference_logp"] = _references(answers, policy, job.params.rollout.temperature)
    return dataclasses.replace(answers, **found) if found else answers


@functools.lru_cache(maxsize=4)
def boundary_table(tokenizer: Any, closes: Boundary) -> Tensor:
    """[V] bool: which words of the tokenizer close a step. Special tokens have no text."""
    texts = tokenizer.batch_decode(
        [[word] for word in range(len(tokenizer))],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    table = [any(part in text for part in closes.texts) for text in texts]
    for word in closes.ids:
        if 0 <= word < len(table):
            table[word] = True
    return torch.tensor(table, dtype=torch.bool)


def _asked(what: str, terms: Parts) -> Any:
    """What the terms want of this kind, which they must agree on; None where none wants any."""
    wishes = {getattr(module, what)(config) for module, config in terms if hasattr(module, what)}
    wishes -= {None, False}
    if len(wishes) > 1:
        raise BadInput(f"method.terms: two of them differ in {what}; expected one for all")
    return wishes.pop() if wishes else None


def _boundaries(answers: Answers, table: Tensor) -> list[Tensor]:
    """A word beyond the tokenizer's closes nothing."""
    known = torch.cat([table, torch.zeros(1, dtype=torch.bool)])
    words = [torch.tensor(response, dtype=torch.int64) for response in answers.responses]
    return [known[response.clamp(max=len(table))] for response in words]


def _references(answers: Answers, policy: Policy, temperature: float) -> list[Tensor]:
    """What the base model of the run says of every response."""
    scores = policy.score(answers.prompts, answers.responses, temperature, reference=True)
    return list(scores.split(scores.logp))


def _unknown(answers: Answers) -> list[Tensor]:
    return [torch.full((len(response),), math.nan) for response in answers.responses]


def _stored(answers: Answers, path: Path) -> list[Tensor]:
    """The fresh responses' entropies, which stand in the table in the same order."""
    table = pq.ParquetFile(path).read(columns=["reward", "entropy"])
    column = table.filter(table["reward"].is_valid())["entropy"]
    if column.null_count:
        raise BadInput(
            f"{path}: holds no entropies; expected them for a term with entropy: stored "
            "(rollout.entropy: true keeps them; entropy: policy does without)"
        )
    found = _unknown(answers)
    for place, values in enumerate(column.to_pylist()):
        found[place] = torch.tensor(values, dtype=torch.float32)
    return found


def _scored(answers: Answers, terms: Parts, policy: Policy, temperature: float) -> list[Tensor]:
    """Those of the policy before the update, for the responses that the terms name."""
    named = torch.zeros(len(answers.responses), dtype=torch.bool)
    for module, config in terms:
        if hasattr(module, "entropy_from") and module.entropy_from(config) == "policy":
            named |= module.candidates(answers.reward, answers.group, answers.fresh, config)
    members = named.nonzero().squeeze(1).tolist()
    found = _unknown(answers)
    if members:
        prompts, responses = [answers.prompts[i] for i in members], [answers.responses[i] for i in members]
        scores = policy.score(prompts, responses, temperature, entropy=True)
        assert scores.entropy is not None
        for place, values in zip(members, scores.split(scores.entropy), strict=True):
            found[place] = values
    return found


def _draws(answers: Answers, job: Job) -> Tensor:
    """For each response a number in [0, 1) of (run seed, round, problem, sample)."""
    parts = zip(answers.problem, answers.sample, strict=True)
    drawn = [seeds.seed(job.params.seed, "update", job.round, "draw", p, s) >> 10 for p, s in parts]
    return torch.tensor(drawn, dtype=torch.float64) / 2.0**53
