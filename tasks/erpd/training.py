"""What both phases of ERPD stand on: fixed answers, steps on them, problems that no teacher sees."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from algorithms.terms import Batch, Term
from params.distil import Student, Teacher
from params.schema import Params, Update
from tasks.core import seeds
from tasks.policy.gradient import Meter, Step, accumulate
from tasks.policy.optimiser import Optimiser
from tasks.policy.policy import Policy


@dataclass(frozen=True)
class Material:
    """S answers that stay as they are, and what the base says of their tokens."""

    prompts: list[list[int]]
    responses: list[list[int]]
    group: Tensor
    """[S] int64."""
    reward: Tensor
    """[S] float32, NaN where there is none."""
    base_logp: list[Tensor]
    """A tensor a response: the log-probabilities of the round's base."""
    behaviour_logp: list[Tensor]
    """What ratios are taken to."""

    def batch(self, members: Sequence[int], max_tokens: int) -> Batch:
        """These answers laid end to end."""
        chosen = list(members)
        behaviour = joined(self.behaviour_logp, chosen)
        lengths = torch.tensor([len(self.responses[i]) for i in chosen])
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


@dataclass
class Course:
    """Optimiser steps of a phase: AdamW from rest."""

    policy: Policy
    optimiser: Optimiser
    temperature: float
    meter: Meter = field(default_factory=Meter)
    norms: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    refused: int = 0

    @classmethod
    def begin(cls, policy: Policy, params: Params, phase: Teacher | Student) -> Course:
        """For one phase's options."""
        rate = phase.learning_rate or params.update.learning_rate
        warm = phase.warmup_steps if isinstance(phase, Student) else 0
        settings: Update = params.update.model_copy(update={"learning_rate": rate, "warmup_steps": warm})
        optimiser = Optimiser(policy.weights.masters, settings)
        return cls(policy, optimiser, params.rollout.temperature)

    def step(self, material: Material, members: Sequence[int], batch: Batch, terms: Sequence[Term]) -> bool:
        """One step on the terms' loss; False where there was nothing to learn or it was refused."""
        prompts = [material.prompts[i] for i in members]
        responses = [material.responses[i] for i in members]
        step = Step(prompts, responses, batch, terms)
        return bool(step.live()) and self.take(accumulate(self.policy, step, self.temperature)[0])

    def take(self, meter: Meter) -> bool:
        """One step on gradients that are there already."""
        norm = self.optimiser.step(meter.loss)
        if norm is None:
            self.refused += 1
            return False
        self.policy.stepped()
        self.meter.merge(meter)
        self.norms.append(norm)
        self.losses.append(meter.loss)
        return True

    def metrics(self) -> dict[str, float | int | None]:
        """Means over the steps, the first and the last loss; None where there was no step."""
        taken = len(self.norms)
        found: dict[str, float | int | None] = {
            **self.meter.means(),
            "loss": sum(self.losses) / taken if taken else None,
            "first_loss": self.losses[0] if taken else None,
            "last_loss": self.losses[-1] if taken else None,
            "grad_norm": sum(self.norms) / taken if taken else None,
            "steps": taken,
            "refused_steps": self.refused,
            "trained_tokens": self.meter.tokens,
        }
        return {name: finite(value) for name, value in found.items()}


def minibatches(
    run_seed: int, stage: str, round: int, epoch: int, group: Tensor, members: Sequence[int], count: int
) -> Iterator[list[int]]:
    """The answers of each step of a pass: whole problems in a seeded order, split evenly."""
    generator = seeds.numpy_generator(run_seed, stage, round, "order", epoch)
    allowed = torch.zeros(len(group), dtype=torch.bool)
    allowed[list(members)] = True
    for part in np.array_split(generator.permutation(group[allowed].unique().numpy()), count):
        chosen = allowed & torch.isin(group, torch.from_numpy(np.sort(part)))
        if bool(chosen.any()):
            yield chosen.nonzero().squeeze(1).tolist()


def held_out(params: Params, round: int, rollouts: pa.Table) -> set[int]:
    """The groups of a round that no teacher sees: a share of them, rounded up, but never all."""
    groups = sorted(set(rollouts["group"].to_pylist()))
    share = params.distil.hold_out if params.distil else 0.0
    count = min(math.ceil(share * len(groups)), len(groups) - 1)
    order = seeds.numpy_generator(params.seed, "teach", round, "held out").permutation(len(groups))
    return {groups[place] for place in order[:count]}


def joined(values: Sequence[Tensor], members: Sequence[int]) -> Tensor:
    """Those responses' tokens, end to end."""
    return torch.cat([values[i] for i in members])


def finite(value: float | int | None) -> float | int | None:
    """None for what JSON has no number for."""
    return value if value is not None and math.isfinite(value) else None
