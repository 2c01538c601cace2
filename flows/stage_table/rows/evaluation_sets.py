"""Evaluation sets: for each that a run names, its problems, once, and a policy's scores on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from flows.stage_table.stage_def import (
    ADAPTER,
    MODEL,
    POLICY,
    SAMPLERS,
    UNJUDGED,
    LiveColumn,
    StageDef,
    StageInput,
    evaluated,
)
from params.schema import Params
from params.views import of_set
from tasks.artefacts.role import Role
from tasks.problems.contract import find_source

ROWS = ()
_PROBLEMS = ("problems", "count", "reward", "prompt.examples")
_SHARED = tuple(
    f"evaluate.{name}" for name in ("temperature", "top_p", "top_k", "max_response_tokens", "confidence")
)


def rows_of(params: Params, table: Mapping[str, StageDef]) -> tuple[StageDef, ...]:
    """Two rows for each set: ``set-NAME`` and ``evaluate-NAME``."""
    return tuple(row for name in params.evaluate.sets for row in (_problems(name), _scores(name)))


def problems_name(name: str) -> str:
    """The stage of a set's problems."""
    return f"set-{name}"


def scores_name(name: str) -> str:
    """The stage of a policy's scores on a set."""
    return f"evaluate-{name}"


def _files(params: Params, name: str) -> Sequence[Path]:
    chosen, where = params.evaluate.sets[name], f"evaluate.sets.{name}.problems"
    source = find_source(chosen.problems.name, where)
    read = None if chosen.prompt.examples else source.held_out_files  # examples are training problems
    read = read or source.files
    return read(chosen.problems.resolve(source.Config, where)) if read else ()


def _problems(name: str) -> StageDef:
    return StageDef(
        name=problems_name(name),
        function="tasks.prepare.benchmark:benchmark",
        role=Role(kind="prepare", label=f"problems of {name}"),
        summary=f"the problems of {name}",
        reads=("seed", *(f"evaluate.sets.{name}.{field}" for field in _PROBLEMS)),
        inputs={},
        files=partial(_files, name=name),
        view=partial(of_set, name=name),
        task_at=f"evaluate.sets.{name}",
        parts=("task.problems", "task.reward"),
        libraries=("reasoning-gym", "datasets"),
        once=True,
    )


def _scores(name: str) -> StageDef:
    return StageDef(
        name=scores_name(name),
        function="tasks.evaluate.evaluate:evaluate",
        refuses=UNJUDGED,
        keeps_answers=True,
        role=Role(kind="measure", label=f"scores on {name}", time_of="evaluation"),
        summary=f"scores on {name}",
        reads=(
            *("seed", "model", "engine", *ADAPTER, f"evaluate.sets.{name}", *_SHARED),
            *("evaluate.bootstrap_samples", "rollout.temperature", "rollout.max_response_tokens"),
        ),
        inputs={"model": MODEL, "problems": StageInput(problems_name(name)), "policy": StageInput(POLICY)},
        view=partial(of_set, name=name),
        task_at=f"evaluate.sets.{name}",
        parts=("task.problems", "task.reward", "task.prompt", "task.environment"),
        libraries=(*SAMPLERS, "scipy"),
        rounds=lambda params: [0, *evaluated(params, params.evaluate.sets[name].every)],
        columns=(LiveColumn(name, "mean_at_n", "{:.1%}"),),
    )
