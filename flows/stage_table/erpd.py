"""ERPD's rows of the stage table: what a run with the section ``distil`` has in place of the update."""

from __future__ import annotations

from flows.stage_table.stage_def import (
    ADAPTER,
    ENGINES,
    MODEL,
    POLICY,
    PROBLEMS,
    SAMPLING,
    WORKERS,
    Input,
    StageDef,
    evaluated,
)
from params.schema import Params

_TRAINING = (
    *("seed", "model", "rollout.temperature", "rollout.max_response_tokens"),
    *(
        *ADAPTER,
        "update.attention",
        "update.weight_decay",
        "update.beta1",
        "update.beta2",
        "update.clip_norm",
    ),
)
_TRAINERS = ("torch", "transformers", "peft")
_ROLLOUT, _BASE = Input("rollout"), Input(POLICY, -1)


def _distils(params: Params) -> bool:
    return params.distil is not None


def _unlearns(params: Params) -> bool:
    return params.distil is not None and params.distil.unlearns()


def _evaluates_teacher(params: Params) -> bool:
    return params.distil is not None and params.distil.evaluate_teacher


def _asks_teachers(params: Params) -> bool:
    """Whether the student wants more of the teachers than the signal holds."""
    student = params.distil.student if params.distil else None
    return student is not None and (student.answers == "fresh" or student.target == "exact")


def _rates(params: Params) -> tuple[str, ...]:
    """The step length of the update, where a teacher has none of its own."""
    teachers = params.distil.teachers.values() if params.distil else ()
    return ("update.learning_rate",) if any(each.learning_rate is None for each in teachers) else ()


def _of_student(params: Params) -> tuple[str, ...]:
    student = params.distil.student if params.distil else None
    found: tuple[str, ...] = ()
    if student and student.learning_rate is None:
        found += ("update.learning_rate",)
    if student and student.answers == "fresh":
        found += ("engine",)
    return found


_TEACHING = (*_TRAINING, "distil.teachers", "distil.hold_out", "method.scale_by_std")

ROWS = (
    StageDef(
        name="teach",
        function="tasks.erpd.teach:teach",
        summary="teachers fitted to the answers, far from the base",
        reads=_TEACHING,
        reads_more=_rates,
        inputs={"model": MODEL, "rollout": _ROLLOUT, "policy": _BASE},
        libraries=_TRAINERS,
        when=_distils,
    ),
    StageDef(
        name="unlearn",
        function="tasks.erpd.teach:unlearn",
        summary="teachers fitted to flipped rewards",
        reads=_TEACHING,
        reads_more=_rates,
        inputs={"model": MODEL, "rollout": _ROLLOUT, "policy": _BASE},
        libraries=_TRAINERS,
        when=_unlearns,
    ),
    StageDef(
        name="signal",
        function="tasks.erpd.signal:signal",
        summary="what the teachers say of each token",
        reads=(
            *("seed", "model", "rollout.temperature", *ADAPTER, "update.attention"),
            *("distil.teachers", "distil.signal", "distil.hold_out"),
        ),
        inputs={
            "model": MODEL,
            "rollout": _ROLLOUT,
            "policy": _BASE,
            "teach": Input("teach"),
            "unlearn": Input("unlearn", when=_unlearns),
        },
        libraries=_TRAINERS,
        when=_distils,
    ),
    StageDef(
        name="distil",
        function="tasks.erpd.distil:distil",
        summary="the next policy, within its budget",
        reads=(*_TRAINING, "distil.student", "distil.signal", "distil.teachers"),
        reads_more=_of_student,
        inputs={
            "model": MODEL,
            "rollout": _ROLLOUT,
            "policy": _BASE,
            "signal": Input("signal"),
            "teach": Input("teach", when=_asks_teachers),
            "unlearn": Input("unlearn", when=lambda params: _asks_teachers(params) and _unlearns(params)),
        },
        libraries=ENGINES,
        also_runs=WORKERS,
        when=_distils,
    ),
    StageDef(
        name="evaluate_teacher",
        function="tasks.evaluate.evaluate:evaluate",
        summary="scores of the first teacher",
        reads=(*SAMPLING, "evaluate", "rollout.temperature", "rollout.max_response_tokens", *ADAPTER),
        inputs={"model": MODEL, "problems": PROBLEMS, "policy": Input("teach")},
        libraries=(*ENGINES, "scipy"),
        also_runs=WORKERS,
        when=_evaluates_teacher,
        rounds=evaluated,
    ),
)
