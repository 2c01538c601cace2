"""A policy made by another run, as an input: named by a person, known by its content."""

from __future__ import annotations

from pathlib import Path

from flows.environment import workspace
from params.base import BadInput
from tasks.artefacts.artefact import MANIFEST, Artefact
from tasks.artefacts.record import RECORD, Record
from tasks.artefacts.store import Store


def find(text: str, where: str) -> Artefact:
    """The last policy of the finished run called ``text``, or the policy artefact at that path, checked.

    Raises ``BadInput`` that names ``where``.
    """
    path = _place(text, where)
    found = Artefact.needed(path, f"{where} needs a policy there (run {text} again)")
    if not found.manifest.role.makes_policy:
        raise BadInput(
            f"{where}: {path} is of stage {found.manifest.stage}, and no policy; expected a policy"
        )
    return found


def brought(store: Store, text: str, where: str) -> Artefact:
    """``find``, with the artefact taken into the cache, where its history is looked up."""
    found = find(text, where)
    if not store.path(found.manifest.stage, found.fingerprint).exists():
        store.adopt(found.manifest.stage, found.fingerprint, found.path)
    return found


def traced(text: str) -> str:
    """The file by which DVC notices that it changed, relative to the workspace."""
    if _is_run(text):
        return f"runs/{text}/{RECORD}"
    return f"{text}/{MANIFEST}"


def _is_run(text: str) -> bool:
    return (workspace() / "runs" / text / RECORD).is_file()


def _place(text: str, where: str) -> Path:
    root = workspace()
    directory = root / "runs" / text
    if not _is_run(text):
        found = next((p for p in (Path(text).expanduser(), root / text, directory) if p.is_dir()), None)
        if found is None:
            raise BadInput(
                f"{where}: no run or artefact '{text}'; expected a name under {root / 'runs'}, or a path"
            )
        return found
    record = Record.read(directory)
    policies = record.policies()
    if not record.finished or not policies:
        raise BadInput(f"{where}: run {text} is not finished; `{record.command}` finishes it")
    return directory / policies[-1].place
