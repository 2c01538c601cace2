"""The warm start of a run with the section ``sft``, and its own scores beside the base model's."""

from __future__ import annotations

from flows.stage_table.stage_def import (
    ADAPTER,
    EVALUATING,
    MODEL,
    PROBLEMS,
    SAMPLERS,
    SAMPLING,
    TRAINERS,
    UNJUDGED,
    StageDef,
    StageInput,
)
from params.schema import Params
from tasks.artefacts.role import Role


def _warm_starts(params: Params) -> bool:
    return params.sft is not None


def _rate(params: Params) -> tuple[str, ...]:
    """The step length of the update, where it has none of its own."""
    return ("update.learning_rate",) if params.sft and params.sft.learning_rate is None else ()


def _policy(params: Params) -> dict[str, str]:
    return {"policy": params.sft.policy} if params.sft and params.sft.policy else {}


ROWS = (
    StageDef(
        name="sft",
        function="tasks.sft.sft:sft",
        role=Role(kind="learn", label="warm start", time_of="learning", makes_policy=True),
        summary="a supervised warm start on demonstrations",
        reads=(
            "seed",
            "model",
            "task.instruction",
            "sft",
            "rollout.max_response_tokens",
            *ADAPTER,
            "update.weight_decay",
            "update.beta1",
            "update.beta2",
            "update.clip_norm",
        ),
        reads_more=_rate,
        inputs={"model": MODEL, "problems": PROBLEMS},
        outside=_policy,
        when=_warm_starts,
        libraries=TRAINERS,
        once=True,
    ),
    StageDef(
        name="evaluate_sft",
        function="tasks.evaluate.evaluate:evaluate",
        refuses=UNJUDGED,
        role=Role(kind="measure", label="warm start's scores", time_of="evaluation"),
        summary="scores of the warm start on the held-out problems",
        reads=(*SAMPLING, *EVALUATING, *ADAPTER),
        inputs={"model": MODEL, "problems": PROBLEMS, "policy": StageInput("sft")},
        when=_warm_starts,
        libraries=(*SAMPLERS, "scipy"),
        once=True,
    ),
)
