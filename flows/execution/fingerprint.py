"""What a stage's result depends on, as one digest: parameters, inputs, source, seed, library versions."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.execution.source import SOURCE, SourceTree
from flows.stage_table.requirements import requirements_of
from flows.stage_table.stage_def import StageDef
from params.base import Choice, value_at
from params.schema import Params
from params.speed import lasting
from params.views import told_of
from tasks.artefacts.artefact import Artefact, canonical
from tasks.artefacts.digests import file_digest


def fingerprint(
    stage: StageDef,
    round: int,
    params: Params,
    inputs: Mapping[str, Artefact],
    source: SourceTree = SOURCE,
) -> str:
    """SHA-256 of everything that may change what the stage makes."""
    return identity(lasting_facts(stage, params, source=source), round, inputs)


def identity(facts: Mapping[str, Any], round: int, inputs: Mapping[str, Artefact]) -> str:
    """A fingerprint from facts that are the same in every round."""
    digests = {name: artefact.digest for name, artefact in inputs.items()}
    return hashlib.sha256(canonical({**facts, "round": round, "inputs": digests})).hexdigest()


def lasting_facts(
    stage: StageDef,
    params: Params,
    elsewhere: Mapping[str, str] | None = None,
    source: SourceTree = SOURCE,
) -> dict[str, Any]:
    """What a stage depends on in every round of a run, with the files of the user's own that are there.

    ``elsewhere``: what identifies the files that it reads, by name, where some of them are not here.
    """
    files = {str(path): file_digest(path) for path in own_files(stage, params)}
    return {
        "stage": stage.name,
        "params": parameters_read(stage, params),
        "files": files if elsewhere is None else dict(elsewhere),
        "code": source.digests(modules(stage, params, source)),
        "versions": versions(stage, params),
    }


def own_files(stage: StageDef, params: Params) -> tuple[Path, ...]:
    """The files of the user's own that the stage reads and that are here. Raises ``BadInput``."""
    parts = requirements_of(stage, params)
    with told_of(stage.task_at):
        read = stage.files(params)
    named = (*read, *(path for part in parts for path in part.files))
    return tuple(dict.fromkeys(path for path in named if path.is_file()))


def parameters_read(stage: StageDef, params: Params) -> dict[str, Any]:
    """The values of the parameters that the stage declares, without those that change only its speed."""
    return {path: _plain(value_at(params, path)) for path in sorted(set(stage.parameters(params)))}


def modules(stage: StageDef, params: Params, source: SourceTree = SOURCE) -> tuple[str, ...]:
    """The modules that the stage stands on: what it imports, starts, and what its parameters choose."""
    chosen = [module for part in requirements_of(stage, params) for module in part.modules]
    return source.closure((stage.function.partition(":")[0], *stage.also_runs, *chosen))


def versions(stage: StageDef, params: Params) -> dict[str, str]:
    """The installed versions of the libraries that it stands on; one that is not installed is left out."""
    names = {*stage.libraries, *(name for part in requirements_of(stage, params) for name in part.libraries)}
    return {name: version for name in sorted(names) if (version := _version(name)) is not None}


@functools.cache
def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, Choice):
        return value.model_dump(mode="json")
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in lasting(type(value))}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
