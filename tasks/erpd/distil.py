"""``distil``: from the round's base towards the teachers' signal, as far as the budget allows."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from algorithms.erpd import distillation_term, geometric_target
from algorithms.geometric import between, divergences, eta_of
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import read_table
from tasks.core.numbers import finite
from tasks.core.stage import Job
from tasks.erpd import student_samples
from tasks.erpd.teacher_signal import Views, compared, look
from tasks.erpd.training import Material, PhaseTraining, joined, minibatches
from tasks.erpd.trust_region import Region, copied, laid
from tasks.policy.full_vocabulary import Target, add_kl_gradient, kl, policy_states
from tasks.policy.job_policy import job_policy
from tasks.policy.policy import Policy, offsets

ETAS = tuple((place / 16) ** 2 for place in range(17))
"""Where the divergence's curve is measured, as shares of the largest eta; it is nearly a parabola."""


def distil(job: Job) -> dict[str, float]:
    """``model``, ``rollout``, ``signal`` and the round's base ``policy``, if any, into the next policy.

    ``teach`` and ``unlearn`` are inputs where more is asked of them than the signal holds: fresh answers, or
    the exact target. Writes ``adapter/`` or ``weights/`` and ``metrics.json``; its ``kl`` is the mean
    divergence KL(student | base of the round) over the whole vocabulary and the states of
    ``distil.student.measured_answers``, and does not exceed ``distil.student.budget``.
    """
    began = time.perf_counter()
    policy = job_policy(job)
    student = Distillation(job, policy)
    if student.mode != "none":
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
        base = job.inputs.get("policy")
        policy.restore(base.path if base else None)
        self.job, self.policy, self.config = job, policy, job.params.distil.student
        self.training = PhaseTraining.begin(policy, job.params, self.config)
        self.said = job.inputs["signal"].json("metrics.json")
        """What the signal's stage measured."""
        self.mode = self.said["mode"]
        self.extrapolation = job.params.distil.signal.extrapolation if self.mode == "extrapolated" else 1.0
        """Of the signal: also the largest eta of the exact target."""
        self.temperature = job.params.rollout.temperature
        self.region: Region | None = None
        """On the answers that it learns from now."""
        self.stopped = "epochs"
        """Why it ended: ``budget`` or ``epochs``."""
        self.eta: float | None = None
        """Of the exact target."""
        self.answers = 0

    def run(self) -> None:
        """Every pass over the round's answers, or over fresh ones, until the budget is spent."""
        if self.config.answers == "static":
            table = read_table(self.job.inputs["rollout"].file("rollouts.parquet"))
            beside = read_table(self.job.inputs["signal"].file("signal.parquet"))
            logp, signal = ([torch.tensor(x) for x in beside[n].to_pylist()] for n in ("base_logp", "signal"))
            material = Material.of(table, logp)
            self._learn(material, signal, self._views(material), 0)
            return
        for attempt in range(self.config.fresh_rounds):
            drawn = student_samples.sampled(self.job, self.policy, attempt)
            views = self._views(drawn)
            assert views is not None
            whole = views.combined(compared(self.mode), self.said["factors"]).centred
            own = self.policy.score(drawn.prompts, drawn.responses, self.temperature)
            lengths = [len(response) for response in drawn.responses]
            base_logp = list(views.base_logp.split(lengths))
            material = replace(drawn, base_logp=base_logp, behaviour_logp=list(own.split(own.logp)))
            self._learn(material, list(whole.split(lengths)), views, attempt)
            if self.stopped == "budget":
                return

    def _learn(self, material: Material, signal: list[Tensor], views: Views | None, attempt: int) -> None:
        """Passes over one set of answers; ``views`` of the teachers there, where they are needed."""
        config, params = self.config, self.job.params
        target = self._target(views) if config.target == "exact" and views else None
        region = self.region = self._region(material, views)
        self.answers += len(material.responses)
        self.stopped = "budget"
        if attempt and not region.enter():  # on answers that nobody saw before
            return
        everything = range(len(material.responses))
        for epoch in range(config.epochs):
            order = attempt * config.epochs + epoch
            parts = minibatches(
                params.seed, "distil", self.job.round, order, material.group, everything, config.minibatches
            )
            for members in parts:
                moved = (
                    self._tokens(material, members, signal)
                    if target is None
                    else self._exact(material, members, target)
                )
                if moved and not region.stepped():
                    return
            self.job.context.tell("distil", epoch + 1, config.epochs, {"kl": region.kl})
        if region.settle():
            self.stopped = "epochs"

    def _tokens(self, material: Material, members: list[int], signal: list[Tensor]) -> bool:
        """A step on the sampled tokens."""
        std = float(self.said["std"])
        if not std:
            return False
        batch = material.batch(members, self.job.params.rollout.max_response_tokens)
        scaled = self.extrapolation * joined(signal, members) / std
        pull = 1.0 / std if self.mode == "extrapolated" else 0.0
        term = distillation_term(batch, scaled, joined(material.base_logp, members), self.config, pull)
        return self.training.step(material, members, batch, [term])

    def _exact(self, material: Material, members: list[int], target: Target) -> bool:
        """A step towards the target over the whole vocabulary."""
        places = offsets([len(response) for response in material.responses])
        prompts = [material.prompts[i] for i in members]
        responses = [material.responses[i] for i in members]
        chosen = [places[i] for i in members]
        meter = add_kl_gradient(self.policy, prompts, responses, chosen, target, self.temperature)
        return self.training.take(meter)

    def _target(self, views: Views) -> Target:
        """Positions to log pi_eta there, for the budget."""
        mode, factors, most = compared(self.mode), self.said["factors"], self.extrapolation

        def parts(index: Tensor | slice) -> tuple[Tensor, Tensor]:
            base = views.base.logp(index)
            return base, views.log_ratio(mode, factors, index, base)

        if self.config.spread == "state":

            @torch.no_grad()
            def each(index: Tensor) -> Tensor:
                base, log_ratio = parts(index)
                return geometric_target(base, base + log_ratio, self.config.budget, most)[0]

            return each
        etas = [most * share for share in ETAS]
        total, count = torch.zeros(len(etas), dtype=torch.float64), 0
        for at in views.base.chunks():
            base, log_ratio = parts(at)
            found = divergences(base, base + log_ratio, etas)
            total, count = total + found.sum(0).cpu(), count + len(found)
        eta = self.eta = eta_of(etas, (total / max(count, 1)).tolist(), self.config.budget)

        @torch.no_grad()
        def same(index: Tensor) -> Tensor:
            base, log_ratio = parts(index)
            return between(base, log_ratio, base.new_full(base.shape[:1], eta))

        return same

    def _region(self, material: Material, views: Views | None) -> Region:
        """Around the base, on some of these answers; the student is the base where there is none yet."""
        count = len(material.responses)
        wanted = min(self.config.measured_answers or count, count)
        chosen = [place * count // wanted for place in range(wanted)]
        prompts, responses = ([of[i] for i in chosen] for of in (material.prompts, material.responses))
        if views:
            base = views.base.of(material.responses, chosen)
        else:
            base = policy_states(self.policy, prompts, responses, self.temperature)

        def measure() -> float:
            student = policy_states(self.policy, prompts, responses, self.temperature)
            return float(kl(student, base).double().mean())

        origin = self.region.origin if self.region else copied(self.policy)
        return Region(self.policy, self.config.budget, measure, origin)

    def _views(self, material: Material) -> Views | None:
        """The teachers at those answers, where more is wanted than the signal; the student stays as it is."""
        if self.config.answers == "static" and self.config.target == "tokens":
            return None
        now = copied(self.policy)
        views = look(self.job, self.policy, material.prompts, material.responses)
        laid(self.policy, now)
        return views

    def metrics(self) -> dict[str, Any]:
        """Of the steps, and where they led."""
        return {
            **self.training.summary(),
            "kl": finite(self.region.kl) if self.region else 0.0,
            "budget": self.config.budget,
            "measured": self.region.measured if self.region else 0,
            "last_share": self.region.share if self.region else 1.0,
            "eta": self.eta,
            "answers": self.answers,
            "mode": self.mode,
            "stopped": self.stopped,
        }
