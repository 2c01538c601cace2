"""The stage ``sft``: a supervised warm start on demonstrations, from which the rounds begin."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from algorithms.likelihood import surprisal_term
from algorithms.terms import Batch
from params.base import BadInput
from params.sft import Sft
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import read_table
from tasks.core import seeds
from tasks.core.numbers import finite
from tasks.core.stage import Job
from tasks.policy.gradient import Step
from tasks.policy.job_policy import job_policy
from tasks.policy.optimiser import Optimiser
from tasks.policy.policy import Policy
from tasks.policy.training import Training
from tasks.rollout.demonstrations import as_answers, refuse_too_long
from tasks.rollout.prompts import job_prompts

TEMPERATURE = 1.0
"""Of the likelihood, whatever the rollouts' is."""


def sft(job: Job) -> dict[str, float]:
    """``model`` and ``problems`` into a policy: ``adapter/`` or ``weights/``, and ``metrics.json``.

    Its loss is the mean over a step's response tokens of -log pi, nats; prompts teach nothing. With
    ``sft.policy`` the earlier run's ``policy`` is taken as it is. ``metrics.json`` has the loss of each epoch
    and of the held-out problems' demonstrations before the first and after each; null where there are none.
    Raises ``BadInput`` where no training demonstration fits, or the policy is of another base model.
    """
    began = time.perf_counter()
    settings = job.params.sft
    assert settings is not None
    policy = job_policy(job)
    train, held_out = (Examples.read(job, policy, name) for name in ("train", "held_out"))
    if "policy" in job.inputs:
        said = _taken(job, policy, held_out)
    else:
        if not train.responses:
            problems = read_table(job.inputs["problems"].file("train.parquet"))
            refuse_too_long(problems, policy.tokenizer, job.params.rollout.max_response_tokens)
            raise BadInput("sft: no training problem has a demonstration; expected at least one")
        said = _trained(job, policy, settings, train, held_out)
    policy.save(job.out)
    write_json(job.out / "metrics.json", {**said, "demonstrations": len(train.responses)})
    return {"seconds": time.perf_counter() - began, "peak_memory_bytes": policy.peak_memory()}


@dataclass(frozen=True)
class Examples:
    """Prompts and the demonstrations that answer them, in tokens."""

    prompts: list[list[int]]
    responses: list[list[int]]

    @classmethod
    def read(cls, job: Job, policy: Policy, split: str) -> Examples:
        """Every demonstration of that split whose prompt leaves room for it."""
        params = job.params
        problems = read_table(job.inputs["problems"].file(f"{split}.parquet"))
        asked = job_prompts(job).encode(problems.to_pylist())
        prompts = dict(zip(problems["problem_id"].to_pylist(), asked, strict=True))
        longest = params.rollout.max_response_tokens
        rows = as_answers(problems, prompts, policy.tokenizer, longest, job.round).to_pylist()
        fit = [r for r in rows if len(r["prompt_ids"]) + len(r["response_ids"]) <= params.model.context]
        return cls([r["prompt_ids"] for r in fit], [r["response_ids"] for r in fit])

    def loss(self, policy: Policy) -> float | None:
        """The mean of -log pi over all tokens, nats; None where there are none."""
        if not self.responses:
            return None
        return finite(-float(policy.score(self.prompts, self.responses, TEMPERATURE).logp.double().mean()))

    def step(self, members: list[int]) -> Step:
        """What an optimiser step on those learns."""
        responses = [self.responses[i] for i in members]
        lengths = torch.tensor([len(response) for response in responses])
        count = int(lengths.sum())
        batch = Batch(
            sequence=torch.arange(len(members)).repeat_interleave(lengths),
            behaviour_logp=torch.zeros(count),
            advantage=torch.zeros(count),
            importance=torch.ones(count),
            fresh=torch.ones(len(members), dtype=torch.bool),
            max_tokens=int(lengths.max()),
        )
        term = surprisal_term("sft", torch.full((count,), 1.0 / count))
        return Step([self.prompts[i] for i in members], responses, batch, [term])


def _trained(job: Job, policy: Policy, settings: Sft, train: Examples, held_out: Examples) -> dict[str, Any]:
    policy.restore(None)
    rate = settings.learning_rate or job.params.update.learning_rate
    chosen = {"learning_rate": rate, "warmup_steps": settings.warmup_steps}
    update = job.params.update.model_copy(update=chosen)
    training = Training(policy, Optimiser(policy.weights.masters, update), TEMPERATURE)
    before, losses, held_out_losses = held_out.loss(policy), [], []
    size = settings.demonstrations_per_step
    steps = settings.epochs * -(-len(train.responses) // size)
    for epoch in range(settings.epochs):
        first = len(training.losses)
        for members in _batches(job.params.seed, epoch, len(train.responses), size):
            made = training.gradient(train.step(members))
            assert made is not None
            training.take(made[0])
            job.context.tell("sft", training.optimiser.steps, steps, {"loss": made[0].loss})
        taken = training.losses[first:]
        losses.append(finite(sum(taken) / len(taken)) if taken else None)
        held_out_losses.append(held_out.loss(policy))
    return {
        **{name: finite(value) for name, value in training.metrics().items()},
        "losses": losses,
        "held_out_loss_base": before,
        "held_out_loss": held_out_losses[-1],
        "held_out_losses": held_out_losses,
        "held_out_demonstrations": len(held_out.responses),
    }


def _taken(job: Job, policy: Policy, held_out: Examples) -> dict[str, Any]:
    given = job.inputs["policy"]
    base = given.manifest.inputs.get("model")
    if base is not None and base.digest != job.inputs["model"].digest:
        raise BadInput(f"sft.policy: {given.path} was trained from another base model; expected this run's")
    policy.restore(None)
    before = held_out.loss(policy)
    policy.restore(given.path)
    return {
        "held_out_loss_base": before,
        "held_out_loss": held_out.loss(policy),
        "held_out_demonstrations": len(held_out.responses),
    }


def _batches(run_seed: int, epoch: int, count: int, size: int) -> Iterator[list[int]]:
    """The demonstrations of each step of an epoch, in a seeded order."""
    order = seeds.numpy_generator(run_seed, "sft", 0, "order", epoch).permutation(count)
    for start in range(0, count, size):
        yield sorted(order[start : start + size].tolist())
