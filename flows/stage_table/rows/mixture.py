"""A mixture of tasks: for each further one its problems, once, and a policy's scores on its held-out ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from flows.stage_table.stage_def import LiveColumn, StageDef, StageInput
from params.mixture import problems_input
from params.schema import Params
from params.views import of_task

ROWS = ()
_PROBLEMS = ("problems", "train_count", "held_out_count", "reward")


def rows_of(params: Params, table: Mapping[str, StageDef]) -> tuple[StageDef, ...]:
    """``problems-NAME`` and ``evaluate-NAME`` of each further task, and a rollout that reads them all."""
    if not params.tasks:
        return ()
    own = [row for name in params.tasks for row in (_problems(name, table), _scores(name, table))]
    rollout = table["rollout"]
    problems = {problems_input(name): StageInput(f"problems-{name}") for name in params.tasks}
    weights = (f"tasks.{name}.weight" for name in params.tasks)
    reads = (*rollout.reads, "tasks", "task_weight", *weights)
    return (*own, replace(rollout, reads=reads, inputs={**rollout.inputs, **problems}))


def _problems(name: str, table: Mapping[str, StageDef]) -> StageDef:
    usual, view = table["problems"], partial(of_task, name=name)
    return replace(
        usual,
        name=f"problems-{name}",
        role=usual.role.model_copy(update={"label": f"problems of {name}"}),
        summary=f"training and held-out problems of {name}",
        reads=("seed", *(f"tasks.{name}.{field}" for field in _PROBLEMS)),
        reads_more=lambda params: (),
        files=lambda params: usual.files(view(params)),
        view=view,
        task_at=f"tasks.{name}",
        parts=("task.problems", "task.reward"),
    )


def _scores(name: str, table: Mapping[str, StageDef]) -> StageDef:
    usual = table["evaluate"]
    shared = [read for read in usual.reads if not read.startswith("task.")]
    return replace(
        usual,
        name=f"evaluate-{name}",
        role=usual.role.model_copy(update={"label": f"scores on {name}"}),
        summary=f"scores on the held-out problems of {name}",
        reads=(*shared, f"tasks.{name}"),
        inputs={**usual.inputs, "problems": StageInput(f"problems-{name}")},
        view=partial(of_task, name=name),
        task_at=f"tasks.{name}",
        parts=("task.problems", "task.reward", "task.prompt", "task.environment"),
        columns=(LiveColumn(name, "mean_at_n", "{:.1%}"),),
    )
