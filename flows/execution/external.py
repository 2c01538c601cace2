"""Artefacts made by another run, as inputs: named by a person, known by their content."""

from __future__ import annotations

from pathlib import Path

from flows.environment import workspace
from params.base import BadInput
from tasks.artefacts.artefact import MANIFEST, MOMENTS, THINNED, Artefact
from tasks.artefacts.record import RECORD, Record
from tasks.artefacts.store import Store

POLICY = "policy"
"""What an input is called that must be a policy."""


def policy(text: str, where: str) -> Artefact:
    """The last policy of the finished run called ``text``, or the policy artefact at that path, checked; its
    optimiser's moments may be lacking.

    Raises ``BadInput`` that names ``where``.
    """
    path = place_of(text, where)
    remedy = f"{where} needs a policy there (run {text} again)"
    found = Artefact.needed(path, remedy, lacking=(MOMENTS,))
    if not found.manifest.role.makes_policy:
        raise BadInput(
            f"{where}: {path} is of stage {found.manifest.stage}, and no policy; expected a policy"
        )
    return found


def policy_path(text: str) -> str:
    """Where the policy of ``RUN`` or ``RUN/round-12`` lies, in the workspace. Raises ``BadInput``."""
    run, _, round = text.strip("/").partition("/")
    made = Record.read(workspace() / "runs" / run).policies()
    fitting = [step for step in made if not round or step.place.partition("/")[0] == round]
    if not fitting:
        rounds = f"{made[0].place} to {made[-1].place}" if made else "it has none yet"
        raise BadInput(f"--from {text}: no policy of that round; expected one of {run}'s: {rounds}")
    return f"runs/{run}/{fitting[-1].place}"


def find(name: str, text: str, where: str) -> Artefact:
    """What a stage reads as the input ``name`` and a person called ``text``: a policy, or an artefact by its
    path in the workspace. Raises ``BadInput``."""
    if name == POLICY:
        return policy(text, where)
    return Artefact.needed(workspace() / text, f"{where} needs it")


def check_recorded(run: str, rounds: int) -> None:
    """Raises ``BadInput`` where a run has no rollouts of so many rounds."""
    directory = workspace() / "runs" / run
    for round in range(1, rounds + 1):
        if (directory / f"round-{round:02d}" / "rollout" / THINNED).is_file():
            raise BadInput(
                f"rollout.recorded: run {run} has dropped its rollouts of round {round}, as its keep says; "
                f"expected all, which keep.rollouts=all leaves (`ostinato restore {run}/round-{round:02d}/"
                "rollout` makes one again)"
            )
    have = 0
    while (directory / f"round-{have + 1:02d}" / "rollout" / MANIFEST).is_file():
        have += 1
    if have < rounds:
        raise BadInput(
            f"rollout.recorded: run {run} has the rollouts of {have} rounds; expected {rounds}, "
            "as many as this run has"
        )


def brought(store: Store, name: str, text: str, where: str) -> Artefact:
    """``find``, with the artefact taken into the cache, where its history is looked up."""
    found = find(name, text, where)
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


def place_of(text: str, where: str) -> Path:
    """Where what a person called ``text`` lies: a finished run's last policy, or the path. Raises
    ``BadInput``."""
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
