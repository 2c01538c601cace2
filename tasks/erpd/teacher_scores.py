"""``evaluate_teacher``: a teacher on the held-out problems, beside the policy's own scores."""

from __future__ import annotations

from dataclasses import replace

from tasks.core.stage import Job
from tasks.erpd.policies import teachers_of
from tasks.erpd.sealed import like, sealed
from tasks.evaluate.evaluate import evaluate


def evaluate_teacher(job: Job) -> dict[str, float]:
    """``model``, ``problems``, ``teach`` and, where the best snapshot is wanted, ``validate`` into the files
    of ``evaluate``: of the teacher of the signal ``distil.evaluate_teacher``, of several the first by name.
    """
    distil = job.params.distil
    assert distil is not None
    assert distil.evaluate_teacher is not None
    _, folder = sorted(teachers_of(job, distil.signals[distil.evaluate_teacher]).items())[0]
    with sealed(job, like(folder)) as policy:
        return evaluate(replace(job, inputs={**job.inputs, "policy": policy}))
