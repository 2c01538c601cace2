"""The policy of a stage's job, opened once and shared by the run's stages."""

from __future__ import annotations

from collections.abc import Hashable

from tasks.core.stage import Job
from tasks.policy.policy import Policy


def job_policy(job: Job) -> Policy:
    """The policy over this job's base model; callers ``restore`` the weights that they need."""
    params, base = job.params, job.inputs["model"].path
    return job.context.keep(("policy", *policy_key(job)), lambda: Policy.open(base, params))


def rest_policy(job: Job) -> None:
    """Where this process holds the policy, move it off the GPU until it is next restored."""
    policy: Policy | None = job.context.kept(("policy", *policy_key(job)))
    if policy is not None:
        policy.rest()


def policy_key(job: Job) -> tuple[Hashable, ...]:
    """What a policy is opened for."""
    return (job.inputs["model"].digest, job.params.seed, job.params.model, job.params.update)
