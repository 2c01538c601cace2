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
from params.sft import Sft
from tasks.artefacts.role import Role


def _warm_starts(params: Params) -> bool:
    return params.sft is not None


def _training(params: Params) -> tuple[str, ...]:
    """What it is trained by, where it is; the step length is the update's where it has none of its own."""
    if params.sft is None or params.sft.policy is not None:
        return ()
    own = tuple(f"sft.{field}" for field in Sft.model_fields if field != "policy")
    rate = ("update.learning_rate",) if params.sft.learning_rate is None else ()
    steps = ("optimiser", "weight_decay", "beta1", "beta2", "clip_norm")
    return (*own, *rate, *(f"update.{field}" for field in steps))


def _policy(params: Params, _: int) -> dict[str, str]:
    return {"policy": params.sft.policy} if params.sft and params.sft.policy else {}


ROWS = (
    StageDef(
        name="sft",
        function="tasks.sft.sft:sft",
        role=Role(kind="learn", label="warm start", time_of="learning", makes_policy=True),
        summary="a supervised warm start on demonstrations",
        reads=("seed", "model", "task.prompt", "rollout.max_response_tokens", *ADAPTER),
        reads_more=_training,
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
