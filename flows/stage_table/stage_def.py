"""What a row of the stage table says, and what several rows share."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from params.schema import Params
from params.views import TASK, told_of
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.role import Resource, Role
from tasks.core.stage import Stage

POLICY = "policy"
"""As the stage of an input: the one that makes the policy, whichever that is in a run."""


@dataclass(frozen=True)
class StageInput:
    """One input of a stage: which stage makes it, and in which round, counted from the reader's."""

    stage: str
    """``POLICY``: whichever stage makes the policy of this run."""
    offset: int = 0
    """-1: of the round before. The input is absent where that round has none: round 1 has no policy, unless
    the run has a warm start."""
    lags: bool = False
    """``rollout.lag`` rounds earlier still."""
    when: Callable[[Params], bool] = lambda params: True
    """Whether the stage reads it in this run."""


@dataclass(frozen=True)
class LiveColumn:
    """A figure of a stage that the live table shows for each round."""

    heading: str
    key: str
    """In what the stage measured of itself, its ``metrics.json`` or its ``scores.json``."""
    form: str
    """How it is written: ``{:.3f}``."""


@dataclass(frozen=True)
class StageDef:
    """One row of the stage table: all that is said of a stage outside its module."""

    name: str
    function: str
    """``module:name``, imported when the stage first runs."""
    role: Role
    """What it is to the report, to a run's cost and to whoever looks for a policy."""
    summary: str
    """What it makes, for people."""
    reads: tuple[str, ...]
    """The parameters that it depends on, by path; a section stands for all of its fields."""
    inputs: dict[str, StageInput]
    libraries: tuple[str, ...]
    """Distributions whose version changes what comes out, beside those of the engine, which is a part."""
    once: bool = False
    """Made once a run, outside the rounds."""
    columns: tuple[LiveColumn, ...] = ()
    """What the live table shows of it."""
    also_runs: tuple[str, ...] = ()
    """Modules that it starts as processes, and so does not import."""
    reads_more: Callable[[Params], tuple[str, ...]] = lambda params: ()
    """Parameters that it reads for some values of others."""
    files: Callable[[Params], Sequence[Path]] = lambda params: ()
    """Files of the user's own that it reads."""
    outside: Callable[[Params, int], dict[str, str]] = lambda params, round: {}
    """Inputs of a round that another run made, by name: as the user names them."""
    when: Callable[[Params], bool] = lambda params: True
    """Whether the stage is part of this run."""
    view: Callable[[Params], Params] = lambda params: params
    """The parameters as its function sees them, where it works on something else than the run's task."""
    task_at: str = TASK
    """Where in the parameters the task of its view stands, for messages: ``evaluate.sets.NAME``."""
    parts: tuple[str, ...] = ()
    """Parameters of its view that choose parts of the program, beside those that it reads by their path."""
    refuses: str = ""
    """``module:name``, called with the whole artefact and the parameters: raises ``StageFailure`` or
    ``BadInput`` where the run cannot go on with it. Nothing that the stage made is lost."""
    keeps_answers: bool = False
    """Whether its artefact has every answer that it sampled: where another differs in what judges answers
    alone, those are judged anew and not sampled anew."""
    rounds: Callable[[Params], list[int]] = lambda params: list(range(1, params.rounds + 1))
    """In which rounds it runs, where it does not run once."""

    @property
    def resource(self) -> Resource:
        """What it works with."""
        return self.role.resource

    def makes_policies(self) -> bool:
        """Whether it makes the policy of each round."""
        return self.role.makes_policy and not self.once

    def starts(self) -> bool:
        """Whether it makes the policy with which the rounds begin, instead of the base model."""
        return self.role.makes_policy and self.once

    def load(self) -> Stage:
        """The function itself."""
        return cast(Stage, _named(self.function))

    def look_at(self, made: Artefact, params: Params) -> None:
        """Raises ``StageFailure`` or ``BadInput`` where a run cannot go on with what the stage has made."""
        if self.refuses:
            with told_of(self.task_at):
                _named(self.refuses)(made, params)

    def parameters(self, params: Params) -> tuple[str, ...]:
        """The paths of the parameters that it depends on in this run."""
        return (*self.reads, *self.reads_more(params))

    def depends_on(self, path: str, params: Params) -> bool:
        """Whether it reads the parameter at ``path``, by itself or within a section."""
        return any(path == read or path.startswith(read + ".") for read in self.parameters(params))

    def all_rounds(self, params: Params) -> list[int]:
        """The rounds in which it runs; [0] where it runs once, [] where the run does without it."""
        if not self.when(params):
            return []
        return [0] if self.once else self.rounds(params)


def _named(function: str) -> Any:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def evaluated(params: Params, every: int | None = None) -> list[int]:
    """The rounds after which the policy is evaluated: each so many, by default those of the evaluation."""
    last, every = params.rounds, every or params.evaluate.every
    return [round for round in range(1, last + 1) if round % every == 0 or round == last]


UNJUDGED = "tasks.rollout.unjudged:refuse_unjudged"
MODEL = StageInput("model")
PROBLEMS = StageInput("problems")
SAMPLING = (
    *("seed", "model", "task.prompt", "task.on_long_prompt", "task.reward", "engine"),
    *("task.environment", "task.episode"),
)
EVALUATING = ("evaluate", "rollout.temperature", "rollout.max_response_tokens")
ADAPTER = ("update.adapter", "update.lora_rank", "update.lora_alpha")
TRAINERS = ("torch", "transformers", "peft")
JUDGES = ("math-verify",)
SAMPLERS = (*TRAINERS, *JUDGES)
"""Beside the engine's own."""
