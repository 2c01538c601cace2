"""A mixture of tasks: for each further one its problems, once, and a policy's scores on its held-out ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from flows.stage_table.stage_def import LiveColumn, StageDef, StageInput
from params.mixture import estimate_input, problems_input
from params.schema import Params
from params.views import of_task

ROWS = ()
_PROBLEMS = ("problems", "train_count", "held_out_count", "reward")


def rows_of(params: Params, table: Mapping[str, StageDef]) -> tuple[StageDef, ...]:
    """``problems-NAME``, ``evaluate-NAME`` and, with a curriculum, ``estimate-NAME`` of each further task; a
    rollout that reads them all, and an update that knows their methods."""
    if not params.tasks:
        return ()
    own = [row for name in params.tasks for row in (_problems(name, table), _scores(name, table))]
    rates = [_rates(name, table) for name, task in params.tasks.items() if task.curriculum]
    return (*own, *rates, _rollout(params, table["rollout"]), _update(params, table["update"]))


def _rollout(params: Params, usual: StageDef) -> StageDef:
    problems = {problems_input(name): StageInput(f"problems-{name}") for name in params.tasks}
    ranked = [name for name, task in params.tasks.items() if task.curriculum]
    rates = {estimate_input(name): StageInput(f"estimate-{name}") for name in ranked}
    more = (
        *(f"tasks.{name}.weight" for name in params.tasks),
        *(f"tasks.{name}.curriculum" for name in ranked),
    )
    return replace(
        usual,
        reads=(*usual.reads, "tasks", "task_weight", *more),
        inputs={**usual.inputs, **problems, **rates},
    )


def _update(params: Params, usual: StageDef) -> StageDef:
    """What a task's method changes; and its longest response, where one is punished by it."""
    changed = [f"tasks.{n}.method" for n, method in params.methods.items() if method != params.method]
    shorter = [n for n, limit in params.limits.items() if limit != params.rollout.max_response_tokens]
    limits = [f"tasks.{name}.max_response_tokens" for name in shorter if params.methods[name].overlong_tokens]
    return replace(usual, reads=(*usual.reads, *changed, *limits))


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


def _rates(name: str, table: Mapping[str, StageDef]) -> StageDef:
    usual = table["estimate"]
    shared = [
        read for read in usual.reads if not read.startswith("task.") and not read.startswith("curriculum.")
    ]
    return replace(
        usual,
        name=f"estimate-{name}",
        role=usual.role.model_copy(update={"label": f"pass rates of {name}"}),
        summary=f"how often the base model solves each training problem of {name}",
        reads=(*shared, f"tasks.{name}", f"tasks.{name}.curriculum.samples_per_problem"),
        inputs={**usual.inputs, "problems": StageInput(f"problems-{name}")},
        when=lambda params: True,
        view=partial(of_task, name=name),
        task_at=f"tasks.{name}",
        parts=("task.problems", "task.reward", "task.prompt", "task.environment"),
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
