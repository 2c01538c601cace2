"""The stage ``update``: from a policy and its scored responses to the next policy, blind to the method."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from params.mixture import MAIN
from tasks.artefacts.artefact import MOMENTS, write_json
from tasks.core import seeds
from tasks.core.numbers import finite
from tasks.core.segments import counts
from tasks.core.stage import Job
from tasks.policy import distributed
from tasks.policy.job_policy import job_policy
from tasks.policy.optimiser import Optimiser
from tasks.policy.policy import Policy
from tasks.policy.training import Training
from tasks.update import replay_draw
from tasks.update.annotations import annotated
from tasks.update.mismatch import Mismatch
from tasks.update.ranks import launched
from tasks.update.responses import Responses
from tasks.update.selected_spans import Spans
from tasks.update.shares import Share, recipes_of, shares_of, step_of


def update(job: Job) -> dict[str, float]:
    """``model``, ``rollout`` and the previous ``policy``, if there is one, into the next policy.

    A method that replays draws from this round's buffer ``replay``, from that of the round before,
    ``replay_before``, or from answers that are older than the run's: ``pool``, ``base_pool``.

    Writes ``adapter/`` or ``weights/``, ``optimizer.safetensors``, ``state.json``, ``metrics.json``, and
    ``spans.parquet`` where a term singles out parts of responses.
    Raises ``BadInput`` for a token budget smaller than a sequence, and ``NotFinite`` after three refused
    steps in a row, counted across rounds.
    """
    update = job.params.update
    return train(job) if update.ranks * update.machines == 1 else launched(job)


def train(job: Job) -> dict[str, float]:
    """``update`` in this process, which may be one of several ranks: they take every step together, and the
    first of them writes."""
    began = time.perf_counter()
    recipes = recipes_of(job.params, job.round)
    policy, previous = job_policy(job), job.inputs.get("policy")
    policy.restore(previous.path if previous else None)
    optimiser = Optimiser(policy.weights.masters, job.params.update, policy.device)
    if previous and MOMENTS in previous.manifest.files:  # a warm start leaves none: its rate is its own
        optimiser.load(previous.path)
    replay = recipes[MAIN].replay
    drawn = replay_draw.draw(job, replay, policy) if replay else None
    given = Responses.read(job.inputs["rollout"].file("rollouts.parquet"), job.params, drawn, job.round)
    if drawn and drawn.anchor == "current":
        given = replay_draw.anchored(given, policy, job.params.rollout.temperature)
    given = annotated(given, [term for recipe in recipes.values() for term in recipe.terms], job, policy)
    ready = time.perf_counter()
    steps = UpdateSteps(job, policy, optimiser, *shares_of(recipes, given))
    steps.run()
    trained = time.perf_counter()
    policy.save(job.out)
    optimiser.save(job.out)
    if distributed.rank():
        return {}
    write_json(job.out / "metrics.json", steps.metrics())
    steps.spans.write(job.out, functools.partial(policy.tokenizer.decode, skip_special_tokens=True))
    return {
        "seconds": time.perf_counter() - began,
        "open_seconds": ready - began,
        "train_seconds": trained - ready,
        "save_seconds": time.perf_counter() - trained,
        "trained_tokens_per_second": steps.training.meter.tokens / (trained - ready),
        "forward_positions": float(steps.training.meter.positions),
        "peak_memory_bytes": policy.peak_memory(),
    }


class UpdateSteps:
    """The optimiser steps of one update; ``run`` it, then ask for its ``metrics``."""

    def __init__(
        self, job: Job, policy: Policy, optimiser: Optimiser, given: Responses, shares: Sequence[Share]
    ) -> None:
        self.training = Training(policy, optimiser, job.params.rollout.temperature)
        self.spans = Spans(given)
        self._job, self._shares, self._given = job, shares, given
        self._old: list[Tensor] | None = None
        self._mismatch = Mismatch(given, job.params, job.round)
        self._merge_loss: float | None = None
        self._done = 0

    def run(self) -> None:
        """Every pass and minibatch; the policy holds the new weights afterwards."""
        if any(share.recipe.method.correction is not None for share in self._shares):
            self._old = self._compare(range(self._given.count_fresh()))
        for members in self._minibatches():
            self._step(members)
        if not self.training.norms:  # nothing had to be computed
            self._look()
        self._merge_loss = self.training.policy.weights.merge_loss()

    def _look(self) -> None:
        """Note how the engine differs on one group, unless that is known."""
        given = self._given
        if len(given.group) and not self._mismatch.knows_fresh():
            first = given.fresh & (given.group == given.group[0])
            self._compare(first.nonzero().squeeze(1).tolist())

    def _minibatches(self) -> Iterator[list[int]]:
        """The responses of each optimiser step: problems in a seeded order, split evenly, and beside them as
        even a part of the replayed responses that join no group."""
        update, group = self._job.params.update, self._given.group
        groups, apart = group[group >= 0].unique().numpy(), (group < 0).nonzero().squeeze(1).numpy()
        for epoch in range(update.epochs):
            generator = seeds.numpy_generator(
                self._job.params.seed, "update", self._job.round, "order", epoch
            )
            parts = np.array_split(generator.permutation(groups), update.minibatches)
            parts = [part for part in parts if len(part)]  # fewer groups than steps: so many steps
            more = np.array_split(generator.permutation(apart), max(len(parts), 1))
            for part, beside in zip(parts, more, strict=False):
                chosen = torch.isin(group, torch.from_numpy(np.sort(part)))
                yield [*chosen.nonzero().squeeze(1).tolist(), *np.sort(beside).tolist()]

    def _step(self, members: list[int]) -> None:
        """One optimiser step, unless there is nothing to learn or something is not finite."""
        training, limit = self.training, self._job.params.rollout.max_response_tokens
        step = step_of(self._shares, members, limit, self._old)
        self.spans.add(step.terms, members)
        end = self._done + len(members)
        made = training.gradient(step, self._tell, self._job.params.update.measure_terms)
        if made is not None:
            meter, logp = made
            if not training.norms:
                self._mismatch.look(members, logp)
                self._look()
            training.take(meter)
        self._tell(end - self._done)

    def _compare(self, members: Sequence[int]) -> list[Tensor]:
        """The trainer's log-probabilities of responses before any step; notes how the engine's differ."""
        prompts = [self._given.prompts[i] for i in members]
        responses = [self._given.responses[i] for i in members]
        scores = self.training.policy.score(prompts, responses, self.training.temperature)
        self._mismatch.look(members, scores.logp)
        return list(scores.split(scores.logp))

    def _corrected(self) -> dict[str, float | None]:
        """What the correction does to this round's tokens: their mean weight, and the share of those that are
        truncated or masked; None where there is no token."""
        if self._old is None:
            return {}
        found = {share.task: share.corrected(self._old) for share in self._shares}
        told = {name: made for name, made in found.items() if made is not None}
        if not told:
            return {"correction_weight": None, "correction_cut": None}
        by_task = told if len(self._shares) > 1 else {}
        together = tuple(torch.cat(parts) for parts in zip(*told.values(), strict=True))
        return {
            f"{before}{name}": float(values.double().mean())
            for before, made in (("", together), *((f"{task}.", own) for task, own in by_task.items()))
            for name, values in zip(("correction_weight", "correction_cut"), made, strict=True)
        }

    def _tell(self, responses: int) -> None:
        self._done += responses
        total = self._job.params.update.epochs * len(self._given.responses)
        self._job.context.tell("update", self._done, total, {})

    def metrics(self) -> dict[str, Any]:
        """What the inputs determine; None where nothing was measured or a value is not finite."""
        training, given = self.training, self._given
        count = given.count_fresh()
        lengths = counts(given.responses)
        right, wrong = given.right_groups()
        values: dict[str, float | None] = {
            **training.metrics(),
            **self.spans.metrics(),
            **self._corrected(),
            "learning_rate": training.rate,
            "reward_mean": float(given.reward[:count].double().mean()) if count else None,
            "constant_groups": given.constant_groups() if count else None,
            "all_right_groups": right if count else None,
            "all_wrong_groups": wrong if count else None,
            "idle_steps": training.idle,
            "total_steps": training.optimiser.steps,
            "responses": count,
            "groups": len(given.group[:count].unique()),
            "tokens": sum(lengths[:count]),
            "replayed": len(lengths) - count,
            "replayed_tokens": sum(lengths[count:]),
            "merge_loss": self._merge_loss,
        }
        said: dict[str, Any] = {name: finite(value) for name, value in values.items()}
        said |= self._mismatch.metrics()
        for name, means in training.meter.means_by_age().items():
            said[f"{name}_by_age"] = {age: finite(value) for age, value in means.items()}
        if count < len(lengths):
            ages = Counter(given.age[count:].tolist())
            said["replayed_by_age"] = {str(age): ages[age] for age in sorted(ages)}
        return said
