"""A model's weights and its forward pass."""

from __future__ import annotations

from tasks.core.stage import Job
from tasks.policy.policy import Policy, Scores

__all__ = ["Policy", "Scores", "kept"]


def kept(job: Job) -> Policy:
    """The policy over this job's base model, opened once a run; callers ``restore`` what they need."""
    model, params = job.inputs["model"], job.params
    key = ("policy", model.digest, params.seed, params.model, params.update)
    return job.context.keep(key, lambda: Policy.open(model.path, params))
