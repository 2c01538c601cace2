"""The stages of a round: sample, replay, update, evaluate; and the pool of an earlier run's answers."""

from __future__ import annotations

from algorithms import contract
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


def _replays(params: Params) -> bool:
    return params.method.replay is not None


def _pools(params: Params) -> bool:
    return _replays(params) and params.replay.pool is not None


def _chooses(params: Params) -> bool:
    """Whether the replay method has a say in which problems are asked."""
    chosen = params.method.replay
    return chosen is not None and contract.find(chosen.name, "draw", "method.replay").problems is not None


ROWS = (
    StageDef(
        name="pool",
        function="tasks.replay.pool:pool",
        role=Role(kind="sample", label="pool", time_of="sampling"),
        summary="right answers of an earlier run's policy",
        reads=(
            *SAMPLING,
            "replay.pool_samples",
            "replay.pool_temperature",
            "rollout.max_response_tokens",
            "rollout.top_logprobs",
            *ADAPTER,
        ),
        inputs={"model": MODEL, "problems": PROBLEMS},
        outside=lambda params: {"policy": params.replay.pool or ""},
        when=_pools,
        libraries=SAMPLERS,
        once=True,
    ),
    StageDef(
        name="rollout",
        function="tasks.rollout.rollout:rollout",
        refuses=UNJUDGED,
        role=Role(kind="sample", label="rollouts", time_of="sampling"),
        summary="answers sampled from the policy, with rewards",
        reads=(*SAMPLING, "rollout", *ADAPTER),
        reads_more=lambda params: ("method.replay",) if _chooses(params) else (),
        inputs={
            "model": MODEL,
            "problems": PROBLEMS,
            "policy": StageInput(POLICY, -1, lags=True),
            "replay": StageInput("replay", -1, when=_chooses),
        },
        libraries=SAMPLERS,
        columns=(
            LiveColumn("reward", "reward_mean", "{:.3f}"),
            LiveColumn("tokens/s", "tokens_per_second", "{:.0f}"),
        ),
    ),
    StageDef(
        name="replay",
        function="tasks.replay.replay:replay",
        role=Role(kind="learn", label="replay buffer", time_of="learning"),
        summary="the replay buffer after this round",
        reads=("seed", "replay"),
        inputs={
            "rollout": StageInput("rollout"),
            "replay": StageInput("replay", -1),
            "update": StageInput(POLICY, -1, when=lambda params: params.replay.sizing != "age"),
        },
        libraries=("torch", "pyarrow"),
    ),
    StageDef(
        name="update",
        function="tasks.update.update:update",
        role=Role(kind="learn", label="policy", time_of="learning", makes_policy=True),
        summary="the next policy",
        reads=(
            "seed",
            "model",
            "method",
            "update",
            "rollout.temperature",
            "rollout.max_response_tokens",
            "rollout.top_logprobs",
        ),
        reads_more=lambda params: ("rollout.samples_per_problem",) if _replays(params) else (),
        when=lambda params: params.distil is None,
        inputs={
            "model": MODEL,
            "rollout": StageInput("rollout"),
            "policy": StageInput(POLICY, -1),
            "replay": StageInput("replay", -1, when=lambda params: _replays(params) and not _pools(params)),
            "pool": StageInput("pool", when=_pools),
        },
        libraries=TRAINERS,
        also_runs=("tasks.update.rank_agent", "tasks.update.rank_worker"),
        columns=(LiveColumn("entropy", "entropy", "{:.3f}"),),
    ),
    StageDef(
        name="evaluate",
        function="tasks.evaluate.evaluate:evaluate",
        refuses=UNJUDGED,
        role=Role(kind="measure", label="scores", time_of="evaluation"),
        summary="scores on the held-out problems",
        reads=(*SAMPLING, *EVALUATING, *ADAPTER),
        inputs={"model": MODEL, "problems": PROBLEMS, "policy": StageInput(POLICY)},
        libraries=(*SAMPLERS, "scipy"),
        rounds=lambda params: [0, *evaluated(params)],
        columns=(LiveColumn("held-out", "mean_at_n", "{:.1%}"),),
    ),
)
