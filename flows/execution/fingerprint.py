"""What a stage's result depends on, as one digest: parameters, inputs, source, seed, library versions."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.stage_table.stages import PARTS, StageDef
from params.base import Choice
from params.schema import Params, SpeedKnob
from tasks.artefacts.artefact import Artefact, canonical, file_digest

ROOT = Path(__file__).parents[2]
OURS = ("algorithms", "tasks")
"""Packages whose source counts. ``params`` says what may be chosen; what was chosen is in the fingerprint."""


def fingerprint(
    stage: StageDef,
    round: int,
    params: Params,
    inputs: Mapping[str, Artefact],
    elsewhere: Mapping[str, str] | None = None,
) -> str:
    """SHA-256 of everything that may change what the stage makes.

    ``elsewhere``: what identifies the files that it reads, by name, where some of them are not here.
    """
    files = (
        {str(path): file_digest(path) for path in stage.files(params) if path.is_file()}
        if elsewhere is None
        else elsewhere
    )
    facts = {
        "stage": stage.name,
        "round": round,
        "params": parameters_read(stage, params),
        "inputs": {name: artefact.digest for name, artefact in inputs.items()},
        "files": files,
        "code": code_digest(modules(stage, params)),
        "versions": versions(stage),
    }
    return hashlib.sha256(canonical(facts)).hexdigest()


def parameters_read(stage: StageDef, params: Params) -> dict[str, Any]:
    """The values of the parameters that the stage declares, without those that change only its speed."""
    return {path: _plain(_at(params, path)) for path in sorted(set(stage.parameters(params)))}


def modules(stage: StageDef, params: Params) -> tuple[str, ...]:
    """The modules of ours that the stage stands on: what it imports, starts and names in its parameters."""
    named = []
    for path, package in PARTS.items():
        if any(path == read or path.startswith(read + ".") for read in stage.parameters(params)):
            chosen = _at(params, path)
            choices = (chosen,) if isinstance(chosen, Choice) else chosen or ()
            named += [f"{package}.{choice.name}" for choice in choices]
    roots = (stage.function.partition(":")[0], *stage.also_runs, *named)
    return tuple(sorted(closure(roots)))


def closure(roots: tuple[str, ...]) -> set[str]:
    """The modules of ours that the roots import, however deep."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found and _file(name) is not None:
            found.add(name)
            waiting += _imports(name)
    return found


def code_digest(names: tuple[str, ...]) -> str:
    """One digest of the source files of these modules."""
    return hashlib.sha256(canonical({name: _source_digest(name) for name in names})).hexdigest()


def source_file(name: str) -> Path:
    """The file of one of our modules; raises ``ModuleNotFoundError``."""
    path = _file(name)
    if path is None:
        raise ModuleNotFoundError(name)
    return path


def versions(stage: StageDef) -> dict[str, str]:
    """The installed versions of the libraries that the stage names; one that is not installed is left out."""
    return {name: version for name in stage.libraries if (version := _version(name)) is not None}


@functools.cache
def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def _file(name: str) -> Path | None:
    """Where a module lies, by its name: asking Python would import the packages above it, and torch."""
    if name.partition(".")[0] not in OURS:
        return None
    path = ROOT.joinpath(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@functools.cache
def _source_digest(name: str) -> str:
    return hashlib.sha256(source_file(name).read_bytes()).hexdigest()


@functools.cache
def _imports(name: str) -> tuple[str, ...]:
    """What a module imports, anywhere in it: modules, and names that may be modules."""
    names: set[str] = set()
    for statement in ast.walk(ast.parse(source_file(name).read_text())):
        if isinstance(statement, ast.Import):
            names.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            names.add(statement.module)
            names.update(f"{statement.module}.{alias.name}" for alias in statement.names)
    packages = {name.rpartition(".")[0] for name in names if "." in name}
    return tuple(sorted(n for n in names | packages if n.partition(".")[0] in OURS))


def _at(params: Params, path: str) -> Any:
    value: Any = params
    for part in path.split("."):
        value = None if value is None else getattr(value, part)  # a section that a run does without
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Choice):
        return value.model_dump(mode="json")
    if isinstance(value, BaseModel):
        return {
            name: _plain(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if not any(isinstance(mark, SpeedKnob) for mark in field.metadata)
        }
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
