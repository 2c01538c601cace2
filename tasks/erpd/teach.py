"""``unlearn`` and ``teach``: policies fitted to a round's answers, far and without a trust region."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from algorithms.erpd import OUTCOME_LOSSES, teacher_terms
from params.base import BadInput
from params.distil import Fit
from tasks.artefacts.artefact import Artefact, write_json
from tasks.artefacts.tables import read_table
from tasks.core.segments import responses_of
from tasks.core.stage import Job
from tasks.erpd.training import Material, PhaseTraining, base_of, joined, problem_batches
from tasks.policy.job_policy import job_policy
from tasks.policy.policy import Policy

UNLEARNED = "unlearned"
"""The one policy that ``unlearn`` makes, by name."""


def unlearn(job: Job) -> dict[str, float]:
    """``model``, ``rollout`` and the round's base ``policy``, if any, into the unlearned policy.

    It takes the same steps as a teacher with the same options does, on the same answers in the same order.
    Files as those of ``teach``.
    """
    assert job.params.distil is not None
    return _fit_all(job, {UNLEARNED: (job.params.distil.unlearn, base_of(job))})


def teach(job: Job) -> dict[str, float]:
    """``model``, ``rollout`` and the round's base ``policy``, if any, into the teachers.

    They begin at the base, or at the policy of ``unlearn``, which is an input then. Each snapshot lies in
    ``NAME/step-NNNN`` as a policy does; ``metrics.json`` has, by teacher, how it was fitted, and its steps,
    ``snapshots``. Raises ``BadInput`` for an unlearned step that was not kept.
    """
    distil = job.params.distil
    assert distil is not None
    starts = {"base": base_of(job)}
    if distil.recovers():
        starts[UNLEARNED] = snapshot(job.inputs["unlearn"], UNLEARNED, distil.unlearned_step)
    return _fit_all(job, {name: (each, starts[each.start]) for name, each in distil.teachers.items()})


def snapshots(artefact: Artefact, name: str) -> list[int]:
    """The steps that are kept of a policy of ``teach`` or ``unlearn``, rising."""
    steps: list[int] = artefact.json("metrics.json")[name]["snapshots"]
    return steps


def snapshot(artefact: Artefact, name: str, step: int | None) -> Path:
    """Where the snapshot of a step lies, or without one the last. Raises ``BadInput`` where none was kept."""
    kept = snapshots(artefact, name)
    wanted = kept[-1] if step is None else step
    if wanted not in kept:
        raise BadInput(f"{name}: step {step} was not kept; expected one of {', '.join(map(str, kept))}")
    return artefact.path / _folder(name, wanted)


def _check_outcomes(material: Material, teachers: Sequence[str]) -> None:
    """Raises ``BadInput`` where a reward is no outcome for these teachers."""
    reward = material.reward[~material.reward.isnan()]
    if teachers and len(reward) and not bool(((reward >= 0) & (reward <= 1)).all()):
        raise BadInput(
            f"distil, {teachers[0]}: rewards from {float(reward.min()):g} to {float(reward.max()):g}; "
            "expected outcomes within 0 and 1 for a loss that is fitted to them, or loss sapo or grpo"
        )


def _folder(name: str, step: int) -> str:
    return f"{name}/step-{step:04d}"


def _fit_all(job: Job, fits: dict[str, tuple[Fit, Path | None]]) -> dict[str, float]:
    """Fit each by name, from where it starts."""
    began = time.perf_counter()
    policy = job_policy(job)
    policy.restore(base_of(job))
    material = _material(job, policy)
    _check_outcomes(material, [name for name, (fit, _) in fits.items() if fit.loss in OUTCOME_LOSSES])
    said: dict[str, Any] = {}
    tokens = 0
    for name, (config, start) in sorted(fits.items()):
        policy.restore(start)
        training = PhaseTraining.begin(policy, job.params, config)
        kept = _fit(job, name, config, material, training)
        said[name] = {**training.summary(), "answers": len(material.prompts), "snapshots": kept}
        tokens += training.meter.tokens
    write_json(job.out / "metrics.json", said)
    seconds = time.perf_counter() - began
    return {
        "peak_memory_bytes": policy.peak_memory(),
        "seconds": seconds,
        "trained_tokens_per_second": tokens / seconds,
    }


def _fit(job: Job, name: str, config: Fit, material: Material, training: PhaseTraining) -> list[int]:
    """Take the steps and keep the snapshots; the steps that were kept."""
    params, everything = job.params, range(len(material.prompts))
    problems = len(material.group.unique())
    kept, total = config.snapshots(problems), config.total(problems)
    batches = (
        part
        for epoch in itertools.count()
        for part in problem_batches(
            params.seed, job.round, epoch, material.group, everything, config.problems_per_step
        )
    )
    for step, part in enumerate(itertools.islice(batches, total if problems else 0), 1):
        batch = material.batch(part, params.rollout.max_response_tokens)
        base_logp = joined(material.base_logp, part)
        terms = teacher_terms(batch, base_logp, config, params.method.scale_by_std)
        training.step(material, part, batch, terms)
        job.context.tell(name, step, total, {})
        if step in kept:
            _keep(job, name, step, training.policy)
    if not problems:  # nothing was judged: the policy stays where it started
        for step in kept:
            _keep(job, name, step, training.policy)
    return kept


def _keep(job: Job, name: str, step: int, policy: Policy) -> None:
    target = job.out / _folder(name, step)
    target.mkdir(parents=True)
    policy.save(target)


def _material(job: Job, policy: Policy) -> Material:
    """The judged answers, scored by the base that ``policy`` holds."""
    table = read_table(job.inputs["rollout"].file("rollouts.parquet"))
    table = table.filter(table["reward"].is_valid())
    prompts, responses = table["prompt_ids"].to_pylist(), responses_of(table)
    scores = policy.score(prompts, responses, job.params.rollout.temperature)
    return Material.of(table, list(scores.split(scores.logp)))
