"""A run's parameters as a stage sees them that works on something else than the run's task."""

from __future__ import annotations

import sys

from params.schema import Params


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
    return params.model_copy(update={"task": task, "evaluate": evaluate})
