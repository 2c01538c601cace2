"""The artefact whose answers a stage need not sample anew, since it differs in what judges them alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flows.execution.differences import Cause, differences
from flows.execution.fingerprint import lasting_facts
from flows.execution.source import SOURCE, SourceTree
from flows.stage_table.stage_def import JUDGES, StageDef
from params.base import Choice
from params.schema import Params
from tasks.artefacts.artefact import Artefact, Damaged
from tasks.artefacts.store import Store

PARAMETER = re.compile(r"(task|tasks\.[^.]+|evaluate\.sets\.[^.]+)\.reward(\.|$)")
"""Those of the judge."""
PACKAGE = "tasks.rewards."
"""Modules of the judge, which sampling has no use for."""
SOME_REWARD = Choice(name="similarity")


def recorded_answers(
    store: Store,
    stage: StageDef,
    round: int,
    params: Params,
    facts: Mapping[str, Any],
    inputs: Mapping[str, Artefact],
    source: SourceTree = SOURCE,
) -> Artefact | None:
    """A whole artefact in the cache with the answers that the stage would sample; None where there is none.

    ``facts`` are what the stage depends on in every round. The newest of several.
    """
    if not stage.keeps_answers or stage.view(params).task.environment is not None:
        return None
    digests = {name: artefact.digest for name, artefact in inputs.items()}
    sampling: dict[str, Any] | None = None
    for found in store.made_of.find(stage.name, round, set(digests.values())):
        sampling = sampling or lasting_facts(stage, _judged_otherwise(params), source=source)
        if all(_judges(cause, sampling) for cause in differences(facts, digests, found.manifest)):
            try:
                found.check()
            except Damaged:
                continue
            return found
    return None


def _judged_otherwise(params: Params) -> Params:
    """The same parameters with a reward that needs nothing of its own."""
    reward = {"reward": SOME_REWARD}
    sets = {name: each.model_copy(update=reward) for name, each in params.evaluate.sets.items()}
    return params.model_copy(
        update={
            "task": params.task.model_copy(update=reward),
            "tasks": {name: each.model_copy(update=reward) for name, each in params.tasks.items()},
            "evaluate": params.evaluate.model_copy(update={"sets": sets}),
        }
    )


def _judges(cause: Cause, sampling: Mapping[str, Any]) -> bool:
    """Whether a difference is in what judges answers, given what a stage with another judge stands on."""
    match cause.kind:
        case "parameter":
            return PARAMETER.match(cause.name) is not None
        case "module":
            return cause.name.startswith(PACKAGE) or cause.name not in sampling["code"]
        case "file":
            return cause.name not in sampling["files"]
        case "library":
            return cause.name in JUDGES or cause.name not in sampling["versions"]
        case _:
            return False
