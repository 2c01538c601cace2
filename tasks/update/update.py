"""The stage ``update``: from a policy and its scored answers to the next policy, blind to the method."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algorithms import contract
from algorithms.diagnostics import effective_sample_size
from algorithms.divergence import kl_k3, log_ratio
from algorithms.terms import Batch, Term, objective_term
from params.base import Config
from params.schema import Method
from tasks.artefacts.artefact import write_json
from tasks.core import seeds
from tasks.core.stage import Job
from tasks.policy import distributed
from tasks.policy.gradient import Meter, Step, accumulate
from tasks.policy.job_policy import job_policy
from tasks.policy.memory import peak_memory
from tasks.policy.optimiser import Optimiser
from tasks.policy.policy import Policy
from tasks.update import replay_draw
from tasks.update.annotations import annotated
from tasks.update.ranks import launched
from tasks.update.responses import Answers
from tasks.update.selected_spans import Clips


def update(job: Job) -> dict[str, float]:
    """``model``, ``rollout`` and the previous ``policy``, if there is one, into the next policy.

    A method that replays draws from ``pool``, or from the previous round's buffer ``replay``.

    Writes ``adapter/`` or ``weights/``, ``optimizer.safetensors``, ``state.json``, ``metrics.json``, and
    ``clips.parquet`` where a term singles out parts of responses.
    Raises ``BadInput`` for a token budget smaller than a sequence, and ``NotFinite`` after three refused
    steps in a row, counted across rounds.
    """
    return train(job) if job.params.update.ranks == 1 else launched(job)


def train(job: Job) -> dict[str, float]:
    """``update`` in this process, which may be one of several ranks: they take every step together, and the
    first of them writes."""
    began = time.perf_counter()
    recipe = Recipe.of(job.params.method)
    policy, previous = job_policy(job), job.inputs.get("policy")
    policy.restore(previous.path if previous else None)
    optimiser = Optimiser(policy.weights.masters, job.params.update)
    if previous:
        optimiser.load(previous.path)
    drawn = replay_draw.draw(job, recipe.replay, policy) if recipe.replay else None
    answers = Answers.read(job.inputs["rollout"].file("rollouts.parquet"), job.params, drawn, job.round)
    if drawn and drawn.anchor == "current":
        answers = replay_draw.anchored(answers, policy, job.params.rollout.temperature)
    answers = annotated(answers, recipe.terms, job, policy)
    ready = time.perf_counter()
    course = Course(job, policy, optimiser, recipe, answers)
    course.run()
    trained = time.perf_counter()
    policy.save(job.out)
    optimiser.save(job.out)
    if distributed.rank():
        return {}
    write_json(job.out / "metrics.json", course.metrics())
    course.clips.write(job.out, functools.partial(policy.tokenizer.decode, skip_special_tokens=True))
    return {
        "seconds": time.perf_counter() - began,
        "open_seconds": ready - began,
        "train_seconds": trained - ready,
        "save_seconds": time.perf_counter() - trained,
        "trained_tokens_per_second": course.meter.tokens / (trained - ready),
        "forward_positions": float(course.meter.positions),
        "peak_memory_bytes": peak_memory(policy.device),
    }


@dataclass(frozen=True)
class Recipe:
    """A method's parts, found and checked before any work is done."""

    method: Method
    objective: tuple[ModuleType, Config]
    terms: tuple[tuple[ModuleType, Config], ...]
    replay: tuple[ModuleType, Config] | None = None

    @classmethod
    def of(cls, method: Method) -> Recipe:
        """Raises ``BadInput`` for a name or an option that does not exist."""
        module = contract.find(method.objective.name, "token_loss", "method.objective.name")
        objective = (module, method.objective.resolve(module.Config, "method.objective"))
        terms = []
        for i, choice in enumerate(method.terms):
            module = contract.find(choice.name, "term", f"method.terms.{i}.name")
            terms.append((module, choice.resolve(module.Config, f"method.terms.{i}")))
        if method.replay is None:
            return cls(method, objective, tuple(terms))
        module = contract.find(method.replay.name, "draw", "method.replay.name")
        replay = (module, method.replay.resolve(module.Config, "method.replay"))
        if hasattr(module, "term"):
            terms.append(replay)
        return cls(method, objective, tuple(terms), replay)

    def on(self, batch: Batch) -> list[Term]:
        """The loss's terms over one batch, the objective first."""
        first = objective_term(batch, *self.objective, self.method.aggregation)
        return [first, *(module.term(batch, config) for module, config in self.terms)]


class Course:
    """The optimiser steps of one update; ``run`` it, then ask for its ``metrics``."""

    def __init__(
        self, job: Job, policy: Policy, optimiser: Optimiser, recipe: Recipe, answers: Answers
    ) -> None:
        self.meter = Meter()
        self.clips = Clips(answers)
        self._job, self._policy, self._optimiser = job, policy, optimiser
        self._recipe, self._answers = recipe, answers
        self._temperature = job.params.rollout.temperature
        self._old: list[Tensor] | None = None
        self._mismatch: dict[str, float | None] = {}
        self._norms: list[float] = []
        self._rate: float | None = None
        self._refused = self._idle = self._done = 0

    def run(self) -> None:
        """Every pass and minibatch; the policy holds the new weights afterwards."""
        answers = self._answers
        if self._recipe.method.importance_cap is not None:
            self._old = self._compare(range(answers.count_fresh()))
        for members in self._minibatches():
            self._step(members)
        if not self._norms:  # nothing had to be computed
            self._look()

    def _look(self) -> None:
        """Note how the engine differs on one group, unless that is known."""
        answers = self._answers
        if not self._mismatch and len(answers.group):
            first = answers.fresh & (answers.group == answers.group[0])
            self._compare(first.nonzero().squeeze(1).tolist())

    def _minibatches(self) -> Iterator[list[int]]:
        """The responses of each optimiser step: problems in a seeded order, split evenly, and beside them as
        even a part of the replayed responses that join no group."""
        update, group = self._job.params.update, self._answers.group
        groups, apart = group[group >= 0].unique().numpy(), (group < 0).nonzero().squeeze(1).numpy()
        for epoch in range(update.epochs):
            generator = seeds.numpy_generator(
                self._job.params.seed, "update", self._job.round, "order", epoch
            )
            parts = np.array_split(generator.permutation(groups), update.minibatches)
            more = np.array_split(generator.permutation(apart), update.minibatches)
            for part, beside in zip(parts, more, strict=True):
                chosen = torch.isin(group, torch.from_numpy(np.sort(part)))
                if len(part):
                    yield [*chosen.nonzero().squeeze(1).tolist(), *np.sort(beside).tolist()]

    def _step(self, members: list[int]) -> None:
        """One optimiser step, unless there is nothing to learn or something is not finite."""
        step = self._gather(members)
        end = self._done + len(members)
        if step.live():
            apart = self._job.params.update.measure_terms
            meter, logp = accumulate(self._policy, step, self._temperature, self._tell, apart)
            if not self._mismatch and not self._norms:
                known = ~logp.isnan() & step.batch.fresh[step.batch.sequence]
                self._mismatch = mismatch(logp[known], step.batch.behaviour_logp[known])
                self._look()
            rate = self._optimiser.rate()
            norm = self._optimiser.step(meter.loss)
            if norm is None:
                self._refused += 1
            else:
                self._policy.stepped()
                self.meter.merge(meter)
                self._norms.append(norm)
                self._rate = rate
        else:
            self._idle += 1
        self._tell(end - self._done)

    def _gather(self, members: list[int]) -> Step:
        answers, cap = self._answers, self._recipe.method.importance_cap
        limit = self._job.params.rollout.max_response_tokens
        batch = answers.batch(members, limit, self._old, cap or math.inf)
        prompts = [answers.prompts[i] for i in members]
        responses = [answers.responses[i] for i in members]
        terms = self._recipe.on(batch)
        self.clips.add(terms, members)
        return Step(prompts, responses, batch, terms)

    def _compare(self, members: Sequence[int]) -> list[Tensor]:
        """The trainer's log-probabilities of responses before any step; notes how the engine's differ."""
        prompts = [self._answers.prompts[i] for i in members]
        responses = [self._answers.responses[i] for i in members]
        scores = self._policy.score(prompts, responses, self._temperature)
        if len(members):
            self._mismatch = mismatch(scores.logp, torch.cat([self._answers.engine_logp[i] for i in members]))
        return list(scores.split(scores.logp))

    def _tell(self, responses: int) -> None:
        self._done += responses
        total = self._job.params.update.epochs * len(self._answers.responses)
        self._job.context.tell("update", self._done, total, {})

    def metrics(self) -> dict[str, Any]:
        """What the inputs determine; None where nothing was measured or a value is not finite."""
        taken, answers = len(self._norms), self._answers
        count = answers.count_fresh()
        lengths = [len(response) for response in answers.responses]
        right, wrong = answers.right_groups()
        values: dict[str, float | None] = {
            **self.meter.means(),
            **self.clips.metrics(),
            **self._mismatch,
            "loss": self.meter.loss / taken if taken else None,
            "grad_norm": sum(self._norms) / taken if taken else None,
            "learning_rate": self._rate,
            "reward_mean": float(answers.reward[:count].double().mean()) if count else None,
            "constant_groups": answers.constant_groups() if count else None,
            "all_right_groups": right if count else None,
            "all_wrong_groups": wrong if count else None,
        }
        counts = {
            "steps": taken,
            "refused_steps": self._refused,
            "idle_steps": self._idle,
            "total_steps": self._optimiser.steps,
            "responses": count,
            "groups": len(answers.group[:count].unique()),
            "tokens": sum(lengths[:count]),
            "replayed": len(lengths) - count,
            "replayed_tokens": sum(lengths[count:]),
            "trained_tokens": self.meter.tokens,
        }
        return {**{name: _finite(value) for name, value in values.items()}, **counts}


def mismatch(trainer: Tensor, engine: Tensor) -> dict[str, float | None]:
    """How far the engine's log-probabilities [T] of its own samples are from the trainer's [T], in nats.

    ``mismatch`` is the mean difference, ``mismatch_max`` the largest, ``mismatch_kl`` the mean k3 estimate of
    KL(engine || trainer), ``effective_samples`` the share of the tokens left by importance weights.
    """
    if not len(trainer):
        return {}
    trainer, engine = trainer.double(), engine.double()
    difference = (trainer - engine).abs()
    share = effective_sample_size(log_ratio(trainer, engine)) / len(trainer)
    return {
        "mismatch": float(difference.mean()),
        "mismatch_max": float(difference.max()),
        "mismatch_kl": float(kl_k3(engine, trainer).mean()),
        "effective_samples": float(share),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
