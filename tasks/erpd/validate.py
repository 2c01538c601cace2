"""``validate``: every snapshot of the teachers on training problems that the round does not learn from."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from algorithms.correct import CORRECT
from algorithms.erpd import teacher_terms
from algorithms.terms import Signals
from params.distil import Teacher
from tasks.artefacts.artefact import Artefact, write_json
from tasks.artefacts.tables import read_table, write_table
from tasks.core.numbers import finite
from tasks.core.seeds import numpy_generator
from tasks.core.segments import responses_of
from tasks.core.stage import Job
from tasks.erpd.beside import beside
from tasks.erpd.sealed import like, sealed
from tasks.erpd.teach import snapshot, snapshots
from tasks.erpd.training import Material, base_of, joined
from tasks.policy.job_policy import job_policy
from tasks.rollout.prompts import askable
from tasks.rollout.sampling import sample


def validate(job: Job) -> dict[str, float]:
    """``model``, ``problems``, ``rollout``, ``teach`` and the round's base ``policy``, if any, into measures.

    ``answers.parquet`` holds the base's answers. ``metrics.json`` has the ``base``'s accuracy, and by teacher
    ``best``, its best step, and the ``steps``: each one's ``accuracy``, its ``gain`` on the base over the
    same problems with the ``error`` of that, ``loss``, its own on the base's answers, and over its own
    answers ``kl_k1``, the mean of log pi_E / pi_0 over tokens, and ``kl``, over the whole vocabulary.
    """
    began = time.perf_counter()
    distil, temperature = job.params.distil, job.params.rollout.temperature
    assert distil is not None
    given, taught = distil.validation, job.inputs["teach"]
    problems = _problems(job)
    base = sample(job, "validate", problems, given.samples, temperature).answers
    write_table(job.out / "answers.parquet", base)
    known, material = accuracies(base), _judged(job, base)
    found: dict[str, Any] = {}
    for name, config in sorted(distil.teachers.items()):
        steps: dict[str, dict[str, float | None]] = {}
        for step in snapshots(taught, name):
            with sealed(job, like(snapshot(taught, name, step))) as policy:
                turn = replace(job, inputs={**job.inputs, "policy": policy})
                own = sample(turn, "validate", problems, given.samples, temperature).answers
                measured = {**_gained(accuracies(own), known), **_divergence(job, policy, own)}
            loss = _loss(job, config, snapshot(taught, name, step), material)
            steps[str(step)] = {**measured, "loss": loss}
        found[name] = {"best": _best(steps, given.measure), "steps": steps}
    accuracy = _mean(list(known.values()))
    write_json(
        job.out / "metrics.json",
        {"base": {"accuracy": accuracy, "problems": len(known)}, "teachers": found},
    )
    return {"seconds": time.perf_counter() - began}


def _problems(job: Job) -> pa.Table:
    """Training problems that the round has not asked, chosen by a draw."""
    assert job.params.distil is not None
    train = askable(job).train
    asked = set(read_table(job.inputs["rollout"].file("rollouts.parquet"))["problem_id"].to_pylist())
    free = [place for place, name in enumerate(train["problem_id"].to_pylist()) if name not in asked]
    order = numpy_generator(job.params.seed, "validate", job.round, "problems").permutation(len(free))
    return train.take(sorted(free[place] for place in order[: job.params.distil.validation.problems]))


def accuracies(answers: pa.Table) -> dict[str, float]:
    """By problem: the share of right answers among those that were judged, where any was."""
    judged = answers.filter(answers["reward"].is_valid())
    right: dict[str, list[float]] = {}
    for problem, reward in zip(judged["problem_id"].to_pylist(), judged["reward"].to_pylist(), strict=True):
        right.setdefault(problem, []).append(float(reward >= CORRECT))
    return {problem: float(np.mean(values)) for problem, values in right.items()}


def _gained(own: dict[str, float], base: dict[str, float]) -> dict[str, float | None]:
    """Accuracy, and what it gains on the base over the problems of both, with the standard error over
    problems."""
    both = sorted(own.keys() & base.keys())
    gains = [own[problem] - base[problem] for problem in both]
    error = float(np.std(gains, ddof=1)) / math.sqrt(len(gains)) if len(gains) > 1 else None
    return {"accuracy": _mean(list(own.values())), "gain": _mean(gains), "error": error}


def _divergence(job: Job, policy: Artefact, answers: pa.Table) -> dict[str, float | None]:
    """Of a policy from the round's base, over its own answers."""
    prompts, responses = answers["prompt_ids"].to_pylist(), responses_of(answers)
    given = (prompts, responses, job.params.rollout.temperature)
    base_logp, found = beside(job_policy(job), base_of(job), {"own": policy.path}, *given)
    k1 = (found["own"].logp - base_logp).double().mean()
    return {"kl_k1": finite(float(k1)), "kl": finite(found["own"].divergence()["to_base"])}


def _judged(job: Job, answers: pa.Table) -> Material:
    """The base's judged answers, scored by the base."""
    policy, table = job_policy(job), answers.filter(answers["reward"].is_valid())
    policy.restore(base_of(job))
    prompts, responses = table["prompt_ids"].to_pylist(), responses_of(table)
    scores = policy.score(prompts, responses, job.params.rollout.temperature)
    return Material.of(table, list(scores.split(scores.logp)))


def _loss(job: Job, config: Teacher, folder: Path, material: Material) -> float | None:
    """The teacher's own loss, without its divergence, on the base's answers."""
    if not material.prompts:
        return None
    policy, members = job_policy(job), range(len(material.prompts))
    batch = material.batch(members, job.params.rollout.max_response_tokens)
    policy.restore(folder)
    own = policy.score(material.prompts, material.responses, job.params.rollout.temperature).logp
    base_logp = joined(material.base_logp, members)
    term = teacher_terms(batch, base_logp, config, job.params.method.scale_by_std)[0]
    index = (term.scale != 0).nonzero().squeeze(1)
    values, _ = term.token_loss(Signals(own[index]), index)
    return finite(float((term.scale[index] * values).double().sum()))


def _best(steps: dict[str, dict[str, float | None]], measure: str) -> int:
    """The step with the best measure, the earliest of equals; where nothing was measured, the last."""
    sign = 1.0 if measure == "accuracy" else -1.0
    known = {int(step): sign * value for step, said in steps.items() if (value := said[measure]) is not None}
    top = max(known.values(), default=0.0)
    return min((step for step, value in known.items() if value == top), default=max(map(int, steps)))


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
