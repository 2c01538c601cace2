"""The policy of a stage's job, opened once and shared by the run's stages."""

from __future__ import annotations

from tasks.core.stage import Job
from tasks.policy.policy import Policy


def job_policy(job: Job) -> Policy:
    """The policy over this job's base model; callers ``restore`` the weights that they need."""
    model, params = job.inputs["model"], job.params
    key = ("policy", model.digest, params.seed, params.model, params.update)
    return job.context.keep(key, lambda: Policy.open(model.path, params))
