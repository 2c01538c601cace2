"""A run's parameters as a stage sees them that works on something else than the run's task."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from params.base import BadInput
from params.mixture import largest_quota
from params.schema import Params
from params.task import Task

TASK = "task"
_IN_A_TASK = re.compile(rf"(?<![\w./]){TASK}\.(?=(?:{'|'.join(Task.model_fields)})\b)")


@contextmanager
def told_of(place: str) -> Iterator[None]:
    """What is raised inside about the task of a view is said of where it stands in the parameters:
    ``evaluate.sets.NAME`` or ``tasks.NAME``."""
    try:
        yield
    except BadInput as error:
        said = _IN_A_TASK.sub(f"{place}.", str(error))
        if place.startswith("evaluate.sets."):
            said = re.sub(r"\bheld_out_count\b", "count", said)
        raise error if said == str(error) else BadInput(said) from None


def of_set(params: Params, name: str) -> Params:
    """The evaluation set called ``name`` in place of the task, with its sampling in place of the
    evaluation's."""
    chosen, usual = params.evaluate.sets[name], params.evaluate
    task = params.task.model_copy(
        update={
            "problems": chosen.problems,
            "prompt": chosen.prompt,
            "on_long_prompt": chosen.on_long_prompt,
            "reward": chosen.reward,
            "environment": chosen.environment,
            "episode": chosen.episode,
            "held_out_count": chosen.count or sys.maxsize,
        }
    )
    evaluate = usual.model_copy(
        update={
            "samples_per_problem": chosen.samples_per_problem,
            "pass_at": chosen.ks,
            "greedy": chosen.greedy,
            "temperature": chosen.temperature or usual.temperature,
            "top_p": usual.top_p if chosen.top_p is None else chosen.top_p,
            "top_k": usual.top_k if chosen.top_k is None else chosen.top_k,
            "max_response_tokens": chosen.max_response_tokens or usual.max_response_tokens,
            "scored_problems": 0,
            "sets": {},
        }
    )
    rollout = params.rollout.model_copy(update={"problems_per_round": 1})  # it trains nobody
    return params.model_copy(update={"task": task, "evaluate": evaluate, "rollout": rollout})


def of_audit(params: Params) -> Params:
    """The second judge, where there is one, in place of the task's."""
    if params.audit is None:
        return params
    return params.model_copy(update={"task": params.task.model_copy(update={"reward": params.audit.reward})})


def of_task(params: Params, name: str) -> Params:
    """The further task called ``name`` in place of ``task``, alone in its rounds."""
    chosen, rollout = params.tasks[name], params.rollout
    place = 1 + list(params.tasks).index(name)
    most = largest_quota(params.weights, rollout.problems_per_round, place)
    evaluate = params.evaluate.model_copy(update={"sets": {}, "scored_problems": 0})
    task = Task.model_validate({name: getattr(chosen, name) for name in Task.model_fields})
    return params.model_copy(
        update={
            "task": task,
            "tasks": {},
            "method": params.methods[name],
            "curriculum": chosen.curriculum,
            "rollout": rollout.model_copy(
                update={"max_response_tokens": params.limits[name], "problems_per_round": max(1, most)}
            ),
            "evaluate": evaluate,
        }
    )
