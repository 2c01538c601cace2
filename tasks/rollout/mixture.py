"""A round of several tasks: each has its quota of the problems, and is asked and judged in its own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from params.mixture import MAIN, estimate_input, largest_quota, problems_input, quotas
from params.views import of_task
from tasks.core.stage import Job
from tasks.rollout.sampling import Sampled


@dataclass(frozen=True)
class Quota:
    """What one task's share of a round came to."""

    sampled: Sampled | None
    """None: it had no problem."""
    figures: dict[str, int]
    """What ``metrics.json`` says of how they were chosen."""


Ask = Callable[[Job, str, int, int], Quota]
"""``ask(job, task, batch, count)``: ``count`` problems of a round that has ``batch`` of the task at most."""


def jobs(job: Job) -> dict[str, Job]:
    """By task, ``MAIN`` first: the job as if its run had that task alone."""
    return {MAIN: job, **{name: _job_of(job, name) for name in job.params.tasks}}


def _job_of(job: Job, name: str) -> Job:
    inputs = {**job.inputs, "problems": job.inputs[problems_input(name)]}
    inputs.pop("estimate", None)
    if estimate_input(name) in job.inputs:
        inputs["estimate"] = job.inputs[estimate_input(name)]
    return replace(job, params=of_task(job.params, name), inputs=inputs)


def mixed(job: Job, ask: Ask) -> tuple[list[Sampled], dict[str, dict[str, int]]]:
    """What each task's problems of this round were answered, and further figures by task; ``task`` of each
    answer says whose it is."""
    size, weights = job.params.rollout.problems_per_round, job.params.weights
    found, figures = [], {}
    counts = quotas(weights, size, job.round)
    for place, (name, of) in enumerate(jobs(job).items()):
        made = ask(of, name, largest_quota(weights, size, place), counts[place])
        figures[name] = made.figures
        if made.sampled is not None:
            found.append(replace(made.sampled, answers=_called(made.sampled.answers, name)))
    return found, figures


def of_task_alone(answers: Sequence[pa.Table], name: str) -> list[pa.Table]:
    """The tables of one task's answers."""
    return [table for table in answers if pc.all(pc.equal(table["task"], name)).as_py()]


def _called(answers: pa.Table, name: str) -> pa.Table:
    place = answers.column_names.index("task")
    return answers.set_column(place, answers.schema.field(place), pa.array([name] * len(answers)))
