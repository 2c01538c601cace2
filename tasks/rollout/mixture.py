"""A round of several tasks: each has its quota of the problems, and is asked and judged in its own way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from params.mixture import MAIN, largest_quota, problems_input, quotas
from params.views import of_task
from tasks.core.stage import Job
from tasks.rollout.sampling import Sampled

Ask = Callable[[Job, int, int], Sampled]
"""``ask(job, batch, count)``: ``count`` problems of those that a round with ``batch`` of them would have."""


def job_of_task(job: Job, name: str) -> Job:
    """The job as if its run had the further task alone."""
    inputs = {**job.inputs, "problems": job.inputs[problems_input(name)]}
    return replace(job, params=of_task(job.params, name), inputs=inputs)


def mixed(job: Job, ask: Ask) -> list[Sampled]:
    """What each task's problems of this round were answered; ``task`` of each answer says whose it is."""
    size, weights = job.params.rollout.problems_per_round, job.params.weights
    found = []
    names = (MAIN, *job.params.tasks)
    for place, (name, count) in enumerate(zip(names, quotas(weights, size, job.round), strict=True)):
        if count:
            of = job if name == MAIN else job_of_task(job, name)
            sampled = ask(of, largest_quota(weights, size, place), count)
            found.append(replace(sampled, answers=_called(sampled.answers, name)))
    return found


def _called(answers: pa.Table, name: str) -> pa.Table:
    place = answers.column_names.index("task")
    return answers.set_column(place, answers.schema.field(place), pa.array([name] * len(answers)))
