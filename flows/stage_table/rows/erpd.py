"""ERPD: what a run with the section ``distil`` has in place of the update."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

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
from params.distil import MOST_ROUNDS_BACK, Fit, older_input
from params.schema import Params
from tasks.artefacts.role import Role

_SCORING = ("seed", "model", "rollout.temperature", *ADAPTER)
_TRAINING = (
    *_SCORING,
    "rollout.max_response_tokens",
    "update.optimiser",
    "update.weight_decay",
    "update.beta1",
    "update.beta2",
    "update.clip_norm",
)
_ROLLOUT, _BASE = StageInput("rollout"), StageInput(POLICY, -1)


def _distils(params: Params) -> bool:
    return params.distil is not None


def _unlearns(params: Params) -> bool:
    return params.distil is not None and params.distil.unlearns()


def _recovers(params: Params) -> bool:
    return params.distil is not None and params.distil.recovers()


def _validates(params: Params) -> bool:
    return params.distil is not None and params.distil.validates()


def _contrasts(params: Params) -> bool:
    """Whether a signal may ask for the unlearned policy."""
    signals = params.distil.signals.values() if params.distil else ()
    return any(signal.may_ask("unlearned") for signal in signals)


def _asks_teachers(params: Params) -> bool:
    """Whether the student wants more of the teachers than the signal holds."""
    return params.distil is not None and params.distil.student.needs_teachers()


def _evaluates_teacher(params: Params) -> bool:
    return params.distil is not None and params.distil.evaluate_teacher is not None


def _older(asked_by_student: bool) -> dict[str, StageInput]:
    """The bases of earlier rounds, each where a signal may ask for it."""

    def asked(params: Params, rounds_back: int) -> bool:
        wanted = params.distil is not None and rounds_back in params.distil.rounds_back()
        return wanted and (not asked_by_student or _asks_teachers(params))

    return {
        older_input(back): StageInput(POLICY, -1 - back, when=partial(asked, rounds_back=back))
        for back in range(1, MOST_ROUNDS_BACK + 1)
    }


def _rates(params: Params, fits: tuple[Fit, ...]) -> tuple[str, ...]:
    """The step length of the update, where a fit has none of its own."""
    return ("update.learning_rate",) if any(each.learning_rate is None for each in fits) else ()


def _of_teach(params: Params) -> tuple[str, ...]:
    if params.distil is None:
        return ()
    more = ("distil.unlearned_step",) if params.distil.recovers() else ()
    return (*more, *_rates(params, tuple(params.distil.teachers.values())))


def _of_unlearn(params: Params) -> tuple[str, ...]:
    return _rates(params, (params.distil.unlearn,)) if params.distil else ()


def _of_signal(params: Params) -> tuple[str, ...]:
    return ("distil.unlearned_step",) if _contrasts(params) else ()


def _of_student(params: Params) -> tuple[str, ...]:
    student = params.distil.student if params.distil else None
    found: tuple[str, ...] = ()
    if student and student.learning_rate is None:
        found += ("update.learning_rate",)
    if student and student.needs_teachers():
        found += ("distil.signals", *_of_signal(params))
    if student and student.answers == "fresh":
        found += ("engine",)
    return found


def _of_teacher_scores(params: Params) -> tuple[str, ...]:
    """Which teacher of the signal that is named."""
    name = params.distil.evaluate_teacher if params.distil else None
    return tuple(f"distil.signals.{name}.{field}" for field in ("teacher", "weights", "step")) if name else ()


_TEACH = StageDef(
    name="teach",
    function="tasks.erpd.teach:teach",
    role=Role(kind="learn", label="teachers", time_of="learning"),
    summary="teachers fitted to the answers, far from the base",
    reads=(*_TRAINING, "distil.teachers", "method.scale_by_std"),
    reads_more=_of_teach,
    inputs={
        "model": MODEL,
        "rollout": _ROLLOUT,
        "policy": _BASE,
        "unlearn": StageInput("unlearn", when=_recovers),
    },
    libraries=TRAINERS,
    when=_distils,
)

ROWS = (
    replace(
        _TEACH,
        name="unlearn",
        function="tasks.erpd.teach:unlearn",
        role=Role(kind="learn", label="unlearned policy", time_of="learning"),
        summary="the first steps of a fit, which unlearn",
        reads=(*_TRAINING, "distil.unlearn", "method.scale_by_std"),
        reads_more=_of_unlearn,
        inputs={"model": MODEL, "rollout": _ROLLOUT, "policy": _BASE},
        when=_unlearns,
    ),
    _TEACH,
    StageDef(
        name="validate",
        function="tasks.erpd.validate:validate",
        refuses=UNJUDGED,
        role=Role(kind="measure", label="teachers' measures", time_of="evaluation"),
        summary="measures of the teachers' snapshots on other problems",
        reads=(
            *SAMPLING,
            *_SCORING,
            "rollout.max_response_tokens",
            "distil.teachers",
            "distil.validation",
            "method.scale_by_std",
        ),
        inputs={
            "model": MODEL,
            "problems": PROBLEMS,
            "rollout": _ROLLOUT,
            "policy": _BASE,
            "teach": StageInput("teach"),
        },
        libraries=SAMPLERS,
        when=_validates,
    ),
    StageDef(
        name="signal",
        function="tasks.erpd.signal:signal",
        role=Role(kind="learn", label="signal", time_of="learning"),
        summary="what the teachers say of each token",
        reads=(*_SCORING, "distil.signals"),
        reads_more=_of_signal,
        inputs={
            "model": MODEL,
            "rollout": _ROLLOUT,
            "policy": _BASE,
            "teach": StageInput("teach"),
            "unlearn": StageInput("unlearn", when=_contrasts),
            "validate": StageInput("validate", when=_validates),
            **_older(asked_by_student=False),
        },
        libraries=TRAINERS,
        when=_distils,
    ),
    StageDef(
        name="distil",
        function="tasks.erpd.distil:distil",
        role=Role(kind="learn", label="policy", time_of="learning", makes_policy=True),
        summary="the next policy, a student of the signals",
        reads=(*_TRAINING, "distil.student"),
        reads_more=_of_student,
        inputs={
            "model": MODEL,
            "rollout": _ROLLOUT,
            "policy": _BASE,
            "signal": StageInput("signal"),
            "teach": StageInput("teach", when=_asks_teachers),
            "unlearn": StageInput(
                "unlearn", when=lambda params: _asks_teachers(params) and _contrasts(params)
            ),
            "validate": StageInput(
                "validate", when=lambda params: _asks_teachers(params) and _validates(params)
            ),
            **_older(asked_by_student=True),
        },
        libraries=SAMPLERS,
        when=_distils,
        columns=(LiveColumn("entropy", "entropy", "{:.3f}"),),
    ),
    StageDef(
        name="evaluate_teacher",
        function="tasks.erpd.teacher_scores:evaluate_teacher",
        refuses=UNJUDGED,
        role=Role(kind="measure", label="teacher's scores", time_of="evaluation"),
        summary="scores of a teacher",
        reads=(*SAMPLING, *EVALUATING, *ADAPTER, "distil.evaluate_teacher"),
        reads_more=_of_teacher_scores,
        inputs={
            "model": MODEL,
            "problems": PROBLEMS,
            "teach": StageInput("teach"),
            "validate": StageInput("validate", when=_validates),
        },
        libraries=(*SAMPLERS, "scipy"),
        when=_evaluates_teacher,
        rounds=evaluated,
    ),
)
