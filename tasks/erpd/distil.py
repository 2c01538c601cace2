"""``distil``: from the round's base, with the teachers' signals as advantages."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from algorithms.erpd import distillation_term
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import read_table
from tasks.core.numbers import finite
from tasks.core.segments import counts
from tasks.core.stage import Job
from tasks.erpd import exact_target, student_samples
from tasks.erpd.beside import beside, divergence_from
from tasks.erpd.policies import reference_of, teachers_of
from tasks.erpd.references import NONE, ChosenReference
from tasks.erpd.signal import contrast, policies
from tasks.erpd.training import Material, PhaseTraining, answer_batches, base_of, joined
from tasks.erpd.trust_region import Region, copied, laid
from tasks.policy.full_vocabulary import Target, add_kl_gradient
from tasks.policy.job_policy import job_policy
from tasks.policy.policy import Policy, offsets


def distil(job: Job) -> dict[str, float]:
    """``model``, ``rollout``, ``signal`` and the round's base ``policy``, if any, into the next policy.

    What made the teachers and references is an input where more is asked of them than the signal holds:
    fresh answers, or the exact target. Writes ``adapter/`` or ``weights/`` and ``metrics.json``; its ``kl``
    is the mean divergence KL(student | base of the round) over the whole vocabulary and the states of
    ``distil.student.measured_answers``, which does not exceed ``distil.student.budget`` where there is one.
    """
    began = time.perf_counter()
    policy = job_policy(job)
    student = Distillation(job, policy)
    student.run()
    policy.save(job.out)
    write_json(job.out / "metrics.json", student.metrics())
    seconds = time.perf_counter() - began
    return {
        "peak_memory_bytes": policy.peak_memory(),
        "seconds": seconds,
        "trained_tokens_per_second": student.training.meter.tokens / seconds,
    }


class Distillation:
    """The student, on its way."""

    def __init__(self, job: Job, policy: Policy) -> None:
        """At the base."""
        assert job.params.distil is not None
        policy.restore(base_of(job))
        self.job, self.policy, self.distil = job, policy, job.params.distil
        self.config = self.distil.student
        self.training = PhaseTraining.begin(policy, job.params, self.config)
        self.said = job.inputs["signal"].json("metrics.json")
        """What the signal's stage said of each signal."""
        self.temperature = job.params.rollout.temperature
        self.budget = math.inf if self.config.budget is None else self.config.budget
        self.region: Region | None = None
        """On the answers that it learns from now."""
        self.stopped = "steps"
        """Why it ended: ``budget`` or ``steps``."""
        self.eta: float | None = None
        """Of the exact target."""
        self.answers = 0

    def run(self) -> None:
        """Every signal in turn over the round's answers; or fresh answers, until the budget is spent; or no
        step at all, but the teacher as it is."""
        if self.config.target == "teacher":
            teachers = teachers_of(self.job, self.distil.signals[self.distil.phases()[0][0]])
            self.policy.restore(teachers[min(teachers)])
            return
        if self.config.answers == "static":
            table = read_table(self.job.inputs["rollout"].file("rollouts.parquet"))
            read = read_table(self.job.inputs["signal"].file("signal.parquet"))

            def column(name: str) -> list[Tensor]:
                return [torch.tensor(values) for values in read[name].to_pylist()]

            signals = {name: column(f"signal.{name}") for name, _ in self.distil.phases()}
            self._learn(Material.of(table, column("base_logp")), signals, 0)
            return
        for attempt in range(self.config.fresh_rounds):
            self._learn(*self._fresh(attempt), attempt)
            if self.stopped == "budget":
                return

    def _fresh(self, attempt: int) -> tuple[Material, dict[str, list[Tensor]]]:
        """Answers of the student as it is now, and the signal there; the student stays as it is."""
        ((name, _),) = self.distil.phases()
        drawn = student_samples.sampled(self.job, self.policy, attempt)
        given = (drawn.prompts, drawn.responses, self.temperature)
        own, now = self.policy.score(*given), copied(self.policy)
        signal, chosen = self.distil.signals[name], ChosenReference(self.said[name]["reference"])
        folders = policies(self.job, name, signal, chosen)
        base_logp, found = beside(self.policy, base_of(self.job), folders, *given)
        laid(self.policy, now)
        unknown = torch.full_like(base_logp, torch.nan)
        made = contrast(name, signal, chosen, base_logp, found, unknown, self.said[name])
        lengths = counts(drawn.responses)
        behaviour, parts = list(own.split(own.logp)), list(base_logp.split(lengths))
        material = replace(drawn, base_logp=parts, behaviour_logp=behaviour)
        return material, {name: list(made.normalised.split(lengths))}

    def _learn(self, material: Material, signals: dict[str, list[Tensor]], attempt: int) -> None:
        """Every signal in turn over one set of answers."""
        region = self.region = self._region(material)
        self.answers += len(material.responses)
        self.stopped = "budget"
        if attempt and not region.enter():  # on answers that nobody saw before
            return
        with ExitStack() as stack:
            target = self._target(material, stack) if self.config.target == "exact" else None
            for place, (name, steps) in enumerate(self.distil.phases()):
                if self.said[name]["reference"] == NONE:
                    continue
                for epoch in range(self.config.epochs):
                    item, size = (attempt, place, epoch), self.config.answers_per_step
                    count = len(material.responses)
                    for members in answer_batches(
                        self.job.params.seed, self.job.round, item, count, steps, size
                    ):
                        moved = (
                            self._tokens(material, members, name, signals[name])
                            if target is None
                            else self._exact(material, members, target)
                        )
                        if moved and not region.stepped():
                            return
                    self.job.context.tell(name, epoch + 1, self.config.epochs, {"kl": region.kl})
        if region.settle():
            self.stopped = "steps"

    def _tokens(self, material: Material, members: list[int], name: str, signal: list[Tensor]) -> bool:
        """A step on the sampled tokens."""
        said = self.said[name]
        if not said["std"]:  # a constant says nothing, and neither does a denominator that moves
            return False
        batch = material.batch(members, self.job.params.rollout.max_response_tokens)
        pull = 1.0 / said["std"] if said["live"] else 0.0
        base_logp = joined(material.base_logp, members)
        term = distillation_term(batch, joined(signal, members), base_logp, self.config, pull)
        return self.training.step(material, members, batch, [term])

    def _exact(self, material: Material, members: list[int], target: Target) -> bool:
        """A step towards the target over the whole vocabulary."""
        places = offsets(counts(material.responses))
        prompts = [material.prompts[i] for i in members]
        responses = [material.responses[i] for i in members]
        chosen = [places[i] for i in members]
        meter = add_kl_gradient(self.policy, prompts, responses, chosen, target, self.temperature)
        return self.training.take(meter)

    def _target(self, material: Material, stack: ExitStack) -> Target:
        """Positions to log pi_eta there, for the budget; the student stays as it is."""
        ((name, _),) = self.distil.phases()
        signal, reference = self.distil.signals[name], self.said[name]["reference"]
        other = None if reference in (NONE, "base") else reference_of(self.job, signal, reference)
        folders = (base_of(self.job), teachers_of(self.job, signal), other)
        now, factors = copied(self.policy), self.said[name]["factors"]
        states = stack.enter_context(
            exact_target.log_ratio_states(self.job, self.policy, material, folders, factors)
        )
        laid(self.policy, now)
        target, self.eta = exact_target.target(states, self.config, self.budget)
        return target

    def _region(self, material: Material) -> Region:
        """Around the base, on some of these answers; the student is the base where there is none yet."""
        count = len(material.responses)
        wanted = min(self.config.measured_answers or count, count)
        chosen = [place * count // wanted for place in range(wanted)]
        prompts = [material.prompts[i] for i in chosen]
        responses = [material.responses[i] for i in chosen]
        origin = self.region.origin if self.region else copied(self.policy)
        measure = divergence_from(self.policy, origin, prompts, responses, self.temperature)
        return Region(self.policy, self.budget, measure, origin)

    def metrics(self) -> dict[str, Any]:
        """Of the steps, and where they led."""
        region = self.region
        return {
            **self.training.summary(),
            "kl": finite(region.kl) if region else 0.0,
            "budget": self.config.budget,
            "measured": region.measured if region else 0,
            "last_share": region.share if region else 1.0,
            "eta": self.eta,
            "answers": self.answers,
            "signals": [name for name, _ in self.distil.phases()],
            "stopped": self.stopped,
        }
