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


def _part(params: Params) -> contract.Hooks | None:
    chosen = params.method.replay
    return contract.find(chosen.name, "draw", "method.replay") if chosen else None


def _chooses(params: Params) -> bool:
    """Whether the replay method has a say in which problems are asked."""
    part = _part(params)
    return part is not None and part.problems is not None


def _asks_base(params: Params) -> bool:
    """Whether it replays what the base model answered before the first round, and nothing else."""
    part = _part(params)
    return part is not None and part.base_answers is not None


def _of_base_answers(params: Params) -> tuple[str, ...]:
    """What of the replay method says which of those answers there are and stay."""
    part, chosen = _part(params), params.method.replay
    if part is None or chosen is None or not part.BASE_OPTIONS:
        return ("method.replay",)
    given = sorted(set(part.BASE_OPTIONS) & set(chosen.model_extra or ()))  # others have the part's defaults
    return tuple(f"method.replay.{name}" for name in ("name", *given))


def _demonstrates(params: Params) -> bool:
    """Whether demonstrations of the problems are what it draws from."""
    part = _part(params)
    return part is not None and part.DEMONSTRATIONS


def _hints(params: Params) -> bool:
    """Whether its answers go on from demonstrations."""
    part = _part(params)
    return part is not None and part.hint is not None


def _draws_own(params: Params) -> bool:
    """Whether it draws from the buffer of the run."""
    part = _part(params)
    return part is not None and not _pools(params) and not _asks_base(params) and not part.demonstrated()


def _draws_before(params: Params) -> bool:
    """Whether it draws from the buffer as the round before left it."""
    part = _part(params)
    return part is not None and part.DRAWS_ROUND_BEFORE


def _updating(params: Params) -> tuple[str, ...]:
    apart = params.method.reward_aggregation == "normalise_then_sum"
    group = ("rollout.samples_per_problem",) if _replays(params) else ()
    return (*group, "task.reward") if apart else group


def _estimates(params: Params) -> bool:
    return params.curriculum is not None


def _asking(params: Params) -> tuple[str, ...]:
    """What else decides which problems a round asks."""
    estimated = ("curriculum",) if _estimates(params) else ()
    return (*estimated, "method.replay") if _chooses(params) or _hints(params) else estimated


ROWS = (
    StageDef(
        name="estimate",
        function="tasks.rollout.estimate:estimate",
        role=Role(kind="sample", label="pass rates", time_of="sampling"),
        summary="how often the base model solves each training problem",
        reads=(
            *SAMPLING,
            "curriculum.samples_per_problem",
            "rollout.temperature",
            "rollout.max_response_tokens",
            *ADAPTER,
        ),
        inputs={"model": MODEL, "problems": PROBLEMS},
        when=_estimates,
        libraries=SAMPLERS,
        once=True,
    ),
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
        outside=lambda params, _: {"policy": params.replay.pool or ""},
        when=_pools,
        libraries=SAMPLERS,
        once=True,
    ),
    StageDef(
        name="base_pool",
        function="tasks.replay.base_pool:base_pool",
        role=Role(kind="sample", label="base model's answers", time_of="sampling"),
        summary="right answers of the base model to what it masters",
        reads=(
            *SAMPLING,
            "rollout.temperature",
            "rollout.max_response_tokens",
            "rollout.top_logprobs",
            *ADAPTER,
        ),
        reads_more=_of_base_answers,
        inputs={"model": MODEL, "problems": PROBLEMS},
        when=_asks_base,
        libraries=SAMPLERS,
        once=True,
    ),
    StageDef(
        name="rollout",
        function="tasks.rollout.rollout:rollout",
        refuses=UNJUDGED,
        keeps_answers=True,
        role=Role(kind="sample", label="rollouts", time_of="sampling"),
        summary="answers sampled from the policy, with rewards",
        reads=(*SAMPLING, "rollout", *ADAPTER),
        reads_more=_asking,
        inputs={
            "model": MODEL,
            "problems": PROBLEMS,
            "policy": StageInput(POLICY, -1, lags=True),
            "replay": StageInput("replay", -1, when=_chooses),
            "estimate": StageInput("estimate", when=_estimates),
            "rollout": StageInput("rollout", -1, when=Params.follows),
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
        reads_more=lambda params: ("method.replay",) if params.replay.admit == "method" else (),
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
        reads_more=_updating,
        when=lambda params: params.distil is None,
        inputs={
            "model": MODEL,
            "rollout": StageInput("rollout"),
            "policy": StageInput(POLICY, -1),
            "replay": StageInput("replay", when=lambda given: _draws_own(given) and not _draws_before(given)),
            "replay_before": StageInput(
                "replay", -1, when=lambda given: _draws_own(given) and _draws_before(given)
            ),
            "pool": StageInput("pool", when=_pools),
            "base_pool": StageInput("base_pool", when=_asks_base),
            "problems": StageInput("problems", when=_demonstrates),
        },
        libraries=TRAINERS,
        also_runs=("tasks.update.rank_agent", "tasks.update.rank_worker"),
        columns=(LiveColumn("entropy", "entropy", "{:.3f}"),),
    ),
    StageDef(
        name="evaluate",
        function="tasks.evaluate.evaluate:evaluate",
        refuses=UNJUDGED,
        keeps_answers=True,
        role=Role(kind="measure", label="scores", time_of="evaluation"),
        summary="scores on the held-out problems",
        reads=(*SAMPLING, *EVALUATING, *ADAPTER),
        inputs={"model": MODEL, "problems": PROBLEMS, "policy": StageInput(POLICY)},
        libraries=(*SAMPLERS, "scipy"),
        rounds=lambda params: [0, *evaluated(params)],
        columns=(LiveColumn("held-out", "mean_at_n", "{:.1%}"),),
    ),
)
