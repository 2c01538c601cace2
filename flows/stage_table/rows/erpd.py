"""ERPD: what a run with the section ``distil`` has in place of the update."""

from __future__ import annotations

from dataclasses import replace

from flows.stage_table.stage_def import (
    ADAPTER,
    EVALUATING,
    MODEL,
    POLICY,
    PROBLEMS,
    SAMPLERS,
    SAMPLING,
    TRAINERS,
    UNJUDGED,
    LiveColumn,
    StageDef,
    StageInput,
    evaluated,
)
from params.schema import Params
from tasks.artefacts.role import Role

_TRAINING = (
    *("seed", "model", "rollout.temperature", "rollout.max_response_tokens"),
    *(
        *ADAPTER,
        "update.weight_decay",
        "update.beta1",
        "update.beta2",
        "update.clip_norm",
    ),
)
_ROLLOUT, _BASE = StageInput("rollout"), StageInput(POLICY, -1)


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


_TEACH = StageDef(
    name="teach",
    function="tasks.erpd.teach:teach",
    role=Role(kind="learn", label="teacher", time_of="learning"),
    summary="teachers fitted to the answers, far from the base",
    reads=(*_TRAINING, "distil.teachers", "distil.hold_out", "method.scale_by_std"),
    reads_more=_rates,
    inputs={"model": MODEL, "rollout": _ROLLOUT, "policy": _BASE},
    libraries=TRAINERS,
    when=_distils,
)

ROWS = (
    _TEACH,
    replace(
        _TEACH,
        name="unlearn",
        function="tasks.erpd.teach:unlearn",
        role=Role(kind="learn", label="unlearned teacher", time_of="learning"),
        summary="teachers fitted to flipped rewards",
        when=_unlearns,
    ),
    StageDef(
        name="signal",
        function="tasks.erpd.signal:signal",
        role=Role(kind="learn", label="signal", time_of="learning"),
        summary="what the teachers say of each token",
        reads=(
            *("seed", "model", "rollout.temperature", *ADAPTER),
            *("distil.teachers", "distil.signal", "distil.hold_out"),
        ),
        inputs={
            "model": MODEL,
            "rollout": _ROLLOUT,
            "policy": _BASE,
            "teach": StageInput("teach"),
            "unlearn": StageInput("unlearn", when=_unlearns),
        },
        libraries=TRAINERS,
        when=_distils,
    ),
    StageDef(
        name="distil",
        function="tasks.erpd.distil:distil",
        role=Role(kind="learn", label="policy", time_of="learning", makes_policy=True),
        summary="the next policy, within its budget",
        reads=(*_TRAINING, "distil.student", "distil.signal", "distil.teachers"),
        reads_more=_of_student,
        inputs={
            "model": MODEL,
            "rollout": _ROLLOUT,
            "policy": _BASE,
            "signal": StageInput("signal"),
            "teach": StageInput("teach", when=_asks_teachers),
            "unlearn": StageInput(
                "unlearn", when=lambda params: _asks_teachers(params) and _unlearns(params)
            ),
        },
        libraries=SAMPLERS,
        when=_distils,
        columns=(LiveColumn("entropy", "entropy", "{:.3f}"),),
    ),
    StageDef(
        name="evaluate_teacher",
        function="tasks.evaluate.evaluate:evaluate",
        refuses=UNJUDGED,
        role=Role(kind="measure", label="teacher's scores", time_of="evaluation"),
        summary="scores of the first teacher",
        reads=(*SAMPLING, *EVALUATING, *ADAPTER),
        inputs={"model": MODEL, "problems": PROBLEMS, "policy": StageInput("teach")},
        libraries=(*SAMPLERS, "scipy"),
        when=_evaluates_teacher,
        rounds=evaluated,
    ),
)
