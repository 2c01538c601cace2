"""The stage table: the one definition of what runs, on what, and what it depends on.

From it come the Prefect tasks, ``dvc.yaml`` and ``ostinato stage NAME``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from algorithms import contract
from flows.stage_table import erpd
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
    policy_maker,
)
from params.schema import Params
from tasks.problems.contract import find_source
from tasks.rewards import custom


def _warm_start(params: Params) -> tuple[str, ...]:
    return ("seed", "task") if params.model.source == "nano" else ()


def _replays(params: Params) -> bool:
    return params.method.replay is not None


def _pools(params: Params) -> bool:
    return _replays(params) and params.replay.pool is not None


def _chooses(params: Params) -> bool:
    """Whether the replay method has a say in which problems are asked."""
    chosen = params.method.replay
    if chosen is None:
        return False
    return contract.find(chosen.name, "draw", "method.replay.name").problems is not None


def _model_files(params: Params) -> Sequence[Path]:
    folder = Path(params.model.source).expanduser()
    return sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else ()


def _problem_files(params: Params) -> Sequence[Path]:
    chosen = params.task.problems
    source = find_source(chosen.name, "task.problems")
    return source.files(chosen.resolve(source.Config, "task.problems")) if source.files else ()


def _reward_files(params: Params) -> Sequence[Path]:
    """The source of a reward of the user's own."""
    name = params.task.reward.name
    return (Path(os.path.relpath(custom.source(name))),) if ":" in name else ()


STAGES: dict[str, StageDef] = {
    stage.name: stage
    for stage in (
        StageDef(
            name="model",
            function="tasks.prepare.model:model",
            summary="the base model as a plain folder",
            reads=("model",),
            reads_more=_warm_start,
            inputs={},
            files=_model_files,
            libraries=("torch", "transformers", "gguf"),
            once=True,
        ),
        StageDef(
            name="problems",
            function="tasks.prepare.problems:problems",
            summary="training and held-out problems",
            reads=("seed", "task.problems", "task.train_count", "task.held_out_count"),
            inputs={},
            files=_problem_files,
            libraries=("reasoning-gym", "datasets"),
            once=True,
        ),
        StageDef(
            name="pool",
            function="tasks.replay.pool:pool",
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
            files=_reward_files,
            libraries=ENGINES,
            also_runs=WORKERS,
            once=True,
        ),
        StageDef(
            name="rollout",
            function="tasks.rollout.rollout:rollout",
            summary="answers sampled from the policy, with rewards",
            reads=(*SAMPLING, "rollout", *ADAPTER),
            reads_more=lambda params: ("method.replay",) if _chooses(params) else (),
            inputs={
                "model": MODEL,
                "problems": PROBLEMS,
                "policy": Input(POLICY, -1, lags=True),
                "replay": Input("replay", -1, when=_chooses),
            },
            files=_reward_files,
            libraries=ENGINES,
            also_runs=WORKERS,
        ),
        StageDef(
            name="replay",
            function="tasks.replay.replay:replay",
            summary="the replay buffer after this round",
            reads=("seed", "replay"),
            inputs={
                "rollout": Input("rollout"),
                "replay": Input("replay", -1),
                "update": Input(POLICY, -1, when=lambda params: params.replay.sizing != "age"),
            },
            libraries=("torch", "pyarrow"),
        ),
        StageDef(
            name="update",
            function="tasks.update.update:update",
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
            when=lambda params: policy_maker(params) == "update",
            inputs={
                "model": MODEL,
                "rollout": Input("rollout"),
                "policy": Input(POLICY, -1),
                "replay": Input("replay", -1, when=lambda params: _replays(params) and not _pools(params)),
                "pool": Input("pool", when=_pools),
            },
            libraries=("torch", "transformers", "peft"),
            also_runs=("tasks.update.rank_agent", "tasks.update.rank_worker"),
        ),
        *erpd.ROWS,
        StageDef(
            name="evaluate",
            function="tasks.evaluate.evaluate:evaluate",
            summary="scores on the held-out problems",
            reads=(
                *SAMPLING,
                "evaluate",
                "rollout.temperature",
                "rollout.max_response_tokens",
                *ADAPTER,
            ),
            inputs={"model": MODEL, "problems": PROBLEMS, "policy": Input(POLICY)},
            files=_reward_files,
            libraries=(*ENGINES, "scipy"),
            also_runs=WORKERS,
            rounds=lambda params: [0, *evaluated(params)],
        ),
    )
}

PARTS = {
    "method.objective": "algorithms",
    "method.terms": "algorithms",
    "method.replay": "algorithms",
    "task.problems": "tasks.problems",
    "task.reward": "tasks.rewards",
}
"""Parameters that name a module, and the package in which it is found: the source of that module counts."""


@dataclass(frozen=True)
class Node:
    """One stage of one run: a row of the stage table at a round, and where its inputs and it lie."""

    place: str
    """In the run's directory: ``model``, ``round-03/update``."""
    stage: StageDef
    round: int
    inputs: dict[str, str]
    """Places by input name; an absent input is not in it."""
    outside: dict[str, str] = field(default_factory=dict)
    """Inputs that another run made, by name: as the user named them."""


def place_of(stage: StageDef, round: int) -> str:
    """Where the artefact of a stage lies inside its run."""
    return stage.name if stage.once else f"round-{round:02d}/{stage.name}"


def rounds_of(stage: StageDef, params: Params) -> list[int]:
    """The rounds in which a stage runs; [0] for one that runs once, [] for one that the run does without."""
    if not stage.when(params):
        return []
    return [0] if stage.once else stage.rounds(params)


def node(stage: StageDef, round: int, params: Params) -> Node:
    """The stage at that round, wired to its inputs."""
    inputs = {}
    for name, source in stage.inputs.items():
        maker = STAGES[source.maker(params)]
        behind = params.rollout.lag if source.lags else 0
        made_in = 0 if maker.once else round + source.offset - behind
        if source.when(params) and made_in in rounds_of(maker, params):
            inputs[name] = place_of(maker, made_in)
    return Node(place_of(stage, round), stage, round, inputs, stage.outside(params))


def plan(params: Params) -> list[Node]:
    """Every stage of a run, in an order in which each comes after its inputs."""
    by_round = [
        node(stage, round, params)
        for round in range(params.rounds + 1)
        for stage in STAGES.values()
        if not stage.once and round in rounds_of(stage, params)
    ]
    once = [stage for stage in STAGES.values() if stage.once and rounds_of(stage, params)]
    return [*(node(stage, 0, params) for stage in once), *by_round]
