"""What a run begins with. The problems come first: an error in the data is told before a model is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.stage_table.stage_def import StageDef
from params.schema import Params
from tasks.artefacts.role import Role
from tasks.problems.contract import find_source


def _problem_files(params: Params) -> Sequence[Path]:
    chosen = params.task.problems
    source = find_source(chosen.name, "task.problems")
    return source.files(chosen.resolve(source.Config, "task.problems")) if source.files else ()


def _model_files(params: Params) -> Sequence[Path]:
    folder = params.model.folder()
    return sorted(p for p in folder.iterdir() if p.is_file()) if folder else ()


_PROBLEMS = ("seed", "task.problems", "task.train_count", "task.held_out_count")


def _warm_start(params: Params) -> tuple[str, ...]:
    if params.model.source != "nano":
        return ()
    turns = ("task.environment", "task.episode") if params.task.environment else ()
    return (*_PROBLEMS, "task.prompt", *turns, *(["tasks"] if params.tasks else []))


def _judged(params: Params) -> tuple[str, ...]:
    checks = find_source(params.task.problems.name, "task.problems").CHECKS_GOLDS
    return ("task.reward",) if checks else ()


ROWS = (
    StageDef(
        name="problems",
        function="tasks.prepare.problems:problems",
        refuses="tasks.rollout.undemonstrated:refuse_undemonstrated",
        role=Role(kind="prepare", label="problems"),
        summary="training and held-out problems",
        reads=_PROBLEMS,
        reads_more=_judged,
        inputs={},
        files=_problem_files,
        libraries=("reasoning-gym", "datasets"),
        once=True,
    ),
    StageDef(
        name="model",
        function="tasks.prepare.model:model",
        role=Role(kind="prepare", label="base model"),
        summary="the base model as a plain folder",
        reads=("model",),
        reads_more=_warm_start,
        inputs={},
        files=_model_files,
        libraries=("torch", "transformers", "gguf"),
        once=True,
    ),
)
