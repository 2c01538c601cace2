"""``teach`` and ``unlearn``: teachers fitted to a round's answers, far and without a trust region."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from algorithms.erpd import teacher_term
from params.distil import Teacher
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import read_table
from tasks.core.stage import Job
from tasks.erpd.training import Material, PhaseTraining, held_out, joined, minibatches
from tasks.policy.job_policy import job_policy
from tasks.policy.policy import Policy


def teach(job: Job) -> dict[str, float]:
    """``model``, ``rollout`` and the round's base ``policy``, if any, into the teachers.

    The first teacher of ``distil.teachers`` lies where a policy lies, ``adapter/`` or ``weights/``, each
    other in a folder by its name; ``metrics.json`` says how they were fitted, by name. They begin at the
    base, and see no answer to the problems that are held out.
    """
    return _fit(job, "teach", flipped=False)


def unlearn(job: Job) -> dict[str, float]:
    """The same on flipped targets: what is fitted here has unlearned what was rewarded."""
    return _fit(job, "unlearn", flipped=True)


def folder(artefact: Path, teachers: dict[str, Teacher], name: str) -> Path:
    """Where a teacher lies in the artefact of ``teach`` or ``unlearn``."""
    return artefact if name == next(iter(teachers)) else artefact / name


def _fit(job: Job, stage: str, flipped: bool) -> dict[str, float]:
    began = time.perf_counter()
    params = job.params
    assert params.distil is not None
    teachers = params.distil.teachers
    policy, base = job_policy(job), job.inputs.get("policy")
    said: dict[str, Any] = {}
    tokens = 0
    for place, (name, config) in enumerate(teachers.items()):
        policy.restore(base.path if base else None)
        material, members = _material(job, policy)
        training = PhaseTraining.begin(policy, params, config)
        for epoch in range(config.epochs):
            parts = minibatches(
                params.seed, stage, job.round, epoch, material.group, members, config.minibatches
            )
            for part in parts:
                batch = material.batch(part, params.rollout.max_response_tokens)
                base_logp = joined(material.base_logp, part)
                term = teacher_term(batch, base_logp, config, flipped, params.method.scale_by_std)
                training.step(material, part, batch, [term])
            job.context.tell(stage, place * config.epochs + epoch + 1, len(teachers) * config.epochs, {})
        target = folder(job.out, teachers, name)
        target.mkdir(exist_ok=True)
        policy.save(target)
        said[name] = {
            **training.summary(),
            "answers": len(members),
            "held_out": len(material.prompts) - len(members),
        }
        tokens += training.meter.tokens
    write_json(job.out / "metrics.json", said)
    seconds = time.perf_counter() - began
    return {
        "peak_memory_bytes": policy.peak_memory(),
        "seconds": seconds,
        "trained_tokens_per_second": tokens / seconds,
    }


def _material(job: Job, policy: Policy) -> tuple[Material, list[int]]:
    """The judged answers, scored by the base that ``policy`` holds, and those that a teacher may see."""
    table = read_table(job.inputs["rollout"].file("rollouts.parquet"))
    unseen = held_out(job.params, job.round, table)
    table = table.filter(table["reward"].is_valid())
    prompts, responses = table["prompt_ids"].to_pylist(), table["response_ids"].to_pylist()
    scores = policy.score(prompts, responses, job.params.rollout.temperature)
    material = Material.of(table, list(scores.split(scores.logp)))
    return material, [i for i, g in enumerate(material.group.tolist()) if g not in unseen]
