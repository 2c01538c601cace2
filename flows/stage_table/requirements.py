"""Parameters that choose a part of the program: which modules, libraries and files come with the choice.

A stage that reads such a parameter stands on the part that its run has chosen, and on no other: the source
of the server pool is none of a run that samples in process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.stage_table.stage_def import StageDef
from params.base import Choice
from params.prompt import PLAIN
from params.reward import several
from params.schema import Params
from params.views import of_task
from tasks.core import few_bits
from tasks.engines.selection import ENGINES, chosen_engines
from tasks.environments.find import chosen_environment
from tasks.policy.weights import WEIGHTS
from tasks.rewards import custom


@dataclass(frozen=True)
class Requirements:
    """What comes with the choice of a part."""

    modules: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def requirements_of(stage: StageDef, params: Params) -> Iterator[Requirements]:
    """The parts that a stage of this run stands on."""
    for path, part in REQUIREMENTS.items():
        if stage.depends_on(path, params) or path in stage.parts:
            yield part(stage.view(params))


def _named(package: str, *choices: Choice | None) -> Requirements:
    names = [choice.name for choice in choices if choice is not None]
    return Requirements(tuple(name if "." in name else f"{package}.{name}" for name in names))


def _problems(params: Params) -> Requirements:
    return _named("tasks.problems", params.task.problems)


def _reward(params: Params) -> Requirements:
    names = [choice.name for choice in several(params.task.reward)]
    mine = [Path(os.path.relpath(custom.source(name))) for name in names if ":" in name]
    ours = [f"tasks.rewards.{name}" for name in names if ":" not in name]
    return Requirements(("tasks.rewards.worker", *ours), files=tuple(mine))


def _tasks(params: Params) -> Requirements:
    """What the further tasks of a mixture need."""
    parts = (_problems, _reward, _prompt, _environment)
    found = [part(of_task(params, name)) for name in params.tasks for part in parts]
    return Requirements(
        tuple(module for each in found for module in each.modules),
        files=tuple(path for each in found for path in each.files),
    )


def _prompt(params: Params) -> Requirements:
    template = params.task.prompt.chat_template
    return Requirements(files=() if template in (None, PLAIN) else (Path(template).expanduser(),))


def _environment(params: Params) -> Requirements:
    choice = params.task.environment
    if choice is None:
        return Requirements()
    found = chosen_environment(choice)
    modules = ("tasks.environments.worker", *(() if found.own else (found.module,)))
    return Requirements(modules, files=(Path(os.path.relpath(found.file)),) if found.own else ())


def _engine(params: Params) -> Requirements:
    chosen = [ENGINES[name] for name in chosen_engines(params.engine)]
    return Requirements(
        tuple(name for engine in chosen for name in (engine.module, *engine.processes)),
        tuple(library for engine in chosen for library in engine.libraries),
    )


def _objectives(params: Params) -> list[Choice]:
    """Of every task."""
    return [method.objective for method in params.methods.values()]


def _terms(params: Params) -> list[Choice]:
    return [term for method in params.methods.values() for term in method.terms]


def _few_bits(chosen: bool, *modules: str) -> Requirements:
    return Requirements(modules, (few_bits.NAME,)) if chosen else Requirements()


REQUIREMENTS: dict[str, Callable[[Params], Requirements]] = {
    "method.objective": lambda params: _named("algorithms", *_objectives(params)),
    "method.terms": lambda params: _named("algorithms", *_terms(params)),
    "method.replay": lambda params: _named("algorithms", params.method.replay),
    "task.problems": _problems,
    "tasks": _tasks,
    "task.reward": _reward,
    "task.environment": _environment,
    "task.prompt": _prompt,
    "engine": _engine,
    "model": lambda params: _few_bits(params.model.bits == 4, "tasks.policy.four_bits"),
    "update.optimiser": lambda params: _few_bits(params.update.optimiser == "adamw_8bit"),
    "update.adapter": lambda params: Requirements((WEIGHTS[params.update.adapter].partition(":")[0],)),
}
"""By the path of the parameter."""
