"""What both phases of ERPD stand on: fixed answers, and steps on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from algorithms.terms import Batch, Term
from params.distil import Fit, Student
from params.schema import Params
from params.update import Update
from tasks.core import seeds
from tasks.core.numbers import finite
from tasks.core.segments import Ids, counts, responses_of
from tasks.core.stage import Job
from tasks.policy.gradient import Step
from tasks.policy.optimiser import Optimiser
from tasks.policy.policy import Policy
from tasks.policy.training import Training


@dataclass(frozen=True)
class Material:
    """S answers that stay as they are, and what the base says of their tokens."""

    prompts: list[list[int]]
    responses: Sequence[Ids]
    group: Tensor
    """[S] int64."""
    reward: Tensor
    """[S] float32, NaN where there is none."""
    base_logp: list[Tensor]
    """A tensor a response: the log-probabilities of the round's base."""
    behaviour_logp: list[Tensor]
    """What ratios are taken to."""

    @classmethod
    def of(cls, table: pa.Table, base_logp: list[Tensor]) -> Material:
        """The answers of a rollout table; ratios are taken to the base."""
        return cls(
            prompts=table["prompt_ids"].to_pylist(),
            responses=responses_of(table),
            group=torch.tensor(table["group"].to_numpy(), dtype=torch.int64),
            reward=torch.tensor(table["reward"].to_numpy(), dtype=torch.float32),
            base_logp=base_logp,
            behaviour_logp=base_logp,
        )

    def batch(self, members: Sequence[int], max_tokens: int) -> Batch:
        """These answers laid end to end."""
        chosen = list(members)
        behaviour = joined(self.behaviour_logp, chosen)
        lengths = torch.tensor(counts(self.responses[i] for i in chosen))
        return Batch(
            sequence=torch.arange(len(chosen)).repeat_interleave(lengths),
            behaviour_logp=behaviour,
            advantage=torch.zeros_like(behaviour),
            importance=torch.ones_like(behaviour),
            fresh=torch.ones(len(chosen), dtype=torch.bool),
            max_tokens=max_tokens,
            reward=self.reward[chosen],
            group=self.group[chosen],
        )


class PhaseTraining(Training):
    """Steps of one of ERPD's phases: AdamW from rest, on fixed answers."""

    @classmethod
    def begin(cls, policy: Policy, params: Params, phase: Fit | Student) -> PhaseTraining:
        """For one phase's options."""
        rate = phase.learning_rate or phase.relative_rate * params.update.learning_rate
        warm = phase.warmup_steps if isinstance(phase, Student) else 0
        settings: Update = params.update.model_copy(update={"learning_rate": rate, "warmup_steps": warm})
        optimiser = Optimiser(policy.weights.masters, settings, policy.device)
        return cls(policy, optimiser, params.rollout.temperature)

    def step(self, material: Material, members: Sequence[int], batch: Batch, terms: Sequence[Term]) -> bool:
        """One step on the terms' loss; False where there was nothing to learn or it was refused."""
        prompts = [material.prompts[i] for i in members]
        responses = [material.responses[i] for i in members]
        made = self.gradient(Step(prompts, responses, batch, terms))
        return made is not None and self.take(made[0])

    def summary(self) -> dict[str, float | None]:
        """The metrics, with the first and the last loss; None where there was no step."""
        ends = {"first_loss": self.losses[0], "last_loss": self.losses[-1]} if self.losses else {}
        known = {"first_loss": None, "last_loss": None, **self.metrics(), **ends}
        return {name: finite(value) for name, value in known.items()}


def problem_batches(
    run_seed: int, round: int, epoch: int, group: Tensor, members: Sequence[int], size: int
) -> Iterator[list[int]]:
    """The answers of each step of a teacher's pass: ``size`` whole problems, in a seeded order.

    The order is that of the round and the pass alone, so that equal fits take equal steps.
    """
    generator = seeds.numpy_generator(run_seed, "teach", round, "order", epoch)
    allowed = torch.zeros(len(group), dtype=torch.bool)
    allowed[list(members)] = True
    problems = generator.permutation(group[allowed].unique().numpy())
    for start in range(0, len(problems), size):
        chosen = allowed & torch.isin(group, torch.from_numpy(np.sort(problems[start : start + size])))
        yield chosen.nonzero().squeeze(1).tolist()


def answer_batches(
    run_seed: int, round: int, item: tuple[int, ...], count: int, steps: int, size: int | None
) -> list[list[int]]:
    """The answers of each of the student's ``steps``: all ``count`` split evenly, or ``size`` for each; none
    comes twice."""
    order = seeds.numpy_generator(run_seed, "distil", round, "order", *item).permutation(count)
    parts = np.array_split(order if size is None else order[: steps * size], steps)
    return [sorted(part.tolist()) for part in parts if len(part)]


def base_of(job: Job) -> Path | None:
    """Where the round's base lies; None: it is the base model."""
    before = job.inputs.get("policy")
    return before.path if before else None


def joined(values: Sequence[Tensor], members: Sequence[int]) -> Tensor:
    """Those responses' tokens, end to end."""
    return torch.cat([values[i] for i in members])
