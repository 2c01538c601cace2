"""A finished run in the history of a repository: its data set, base model and last policy, kept by DVC.

``published/NAME/`` holds the three artefacts, each with its ``.dvc`` file, beside ``run.json`` and
``metrics.json``. The bytes go to a DVC remote in the same bucket, and only then are the small files committed
to git: whoever checks out that commit can ``dvc pull`` what it names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.environment import under_dvc
from flows.execution.runner import run_directory
from params.base import BadInput
from params.load import read_params, read_yaml
from params.store import StoreSettings
from tasks.artefacts.artefact import Artefact, Damaged, replace_directory
from tasks.artefacts.building import sweep
from tasks.artefacts.record import RECORD, STEPS, Record
from tasks.remote.errors import RemoteTrouble

FOLDER = "published"
REMOTE = "ostinato"
"""The name of the DVC remote."""
BELOW = "dvc"
"""Where in the bucket's prefix DVC keeps its objects."""
SMALL = ("metrics.json", RECORD, STEPS)
"""Files of the run that stand beside the artefacts."""
GIT_SECONDS, DVC_SECONDS = 600.0, 6 * 3600.0
"""For one command; DVC's send whole models."""
POINTERS = (".dvc/config", ".dvc/.gitignore", ".dvcignore", "dvc.yaml", "dvc.lock", "params.yaml")


def check(root: Path) -> None:
    """Raise ``BadInput`` where publishing cannot work, before anything is computed for it."""
    if under_dvc():
        raise BadInput("--publish: a DVC stage is running; publish after `dvc repro` has ended")
    if not (root / ".dvc").is_dir() or _run(["git", "rev-parse", "--git-dir"], root).returncode:
        raise BadInput(
            f"--publish: {root} is no repository of git and DVC; expected `git init` and `dvc init`"
        )
    if _run(["git", "var", "GIT_COMMITTER_IDENT"], root).returncode:
        raise BadInput("--publish: git does not know who commits; set user.name and user.email")


def publish_run(root: Path, name: str, settings: StoreSettings) -> dict[str, Any]:
    """Commit and push the run's data set, base model and last policy. Raises ``BadInput``, ``RemoteTrouble``.

    Again, it does nothing: DVC finds its objects in the bucket, git finds nothing to commit.
    """
    check(root)
    record = Record.read(run_directory(root, name))
    if not record.finished:
        raise BadInput(f"--publish: run {name} is not finished; `{record.command}` finishes it")
    place = _lay_out(root, record)
    _set_remote(root, settings)
    parts = sorted((place / part).relative_to(root).as_posix() for part in _parts(record))
    _dvc(root, "add", *parts)
    pointers = [f"{part}.dvc" for part in parts]
    if _is_pipeline(root, record):
        _dvc(root, "commit", "--force")
        pointers.append("dvc.yaml")
    _dvc(root, "push", "--remote", REMOTE, *pointers)
    commit = _commit(root, name, place, [f"{part}.dvc" for part in parts])
    return {"name": name, "published": place.relative_to(root).as_posix(), "commit": commit}


def _lay_out(root: Path, record: Record) -> Path:
    """Copies of the artefacts and the small files. Copies: DVC makes what it takes in read-only."""
    directory, place = run_directory(root, record.name), root / FOLDER / record.name
    place.mkdir(parents=True, exist_ok=True)
    sweep(place)  # what a process that was killed left half-copied
    for part, source in _parts(record).items():
        made = Artefact.needed(directory / source, f"`{record.command}` makes it again")
        target = place / part
        if _holds(target, made):
            continue
        new = place / f".{part}.{os.getpid()}"
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(made.path, new)
        replace_directory(new, target)
    if not (place / RECORD).exists() or _made(Record.read(place)) != _made(record):
        for file in SMALL:
            shutil.copyfile(directory / file, place / file)
    return place


def _made(record: Record) -> tuple[Any, ...]:
    """What a run is, without how long it took the last time."""
    return record.params, sorted((step.place, step.digest) for step in record.steps)


def _holds(place: Path, made: Artefact) -> bool:
    try:
        return Artefact.open(place).digest == made.digest
    except (Damaged, FileNotFoundError):
        return False


def _parts(record: Record) -> dict[str, str]:
    """What is published, and where it lies in the run."""
    places = {step.stage: step.place for step in sorted(record.steps, key=lambda step: step.round)}
    return {"model": places["model"], "problems": places["problems"], "policy": record.policies()[-1].place}


def _set_remote(root: Path, settings: StoreSettings) -> None:
    """Make the DVC remote what the settings say; it is the default where there is none."""
    wanted = {"url": f"{str(settings.url).rstrip('/')}/{BELOW}"}
    wanted |= {"endpointurl": settings.endpoint_url} if settings.endpoint_url else {}
    wanted |= {"region": settings.region} if settings.region else {}
    listed = dict(line.partition("=")[::2] for line in _dvc(root, "config", "--list").splitlines())
    if any(listed.get(f"remote.{REMOTE}.{key}") != value for key, value in wanted.items()):
        default = [] if "core.remote" in listed else ["--default"]
        _dvc(root, "remote", "add", "--force", *default, REMOTE, wanted.pop("url"))
        for key, value in wanted.items():
            _dvc(root, "remote", "modify", REMOTE, key, value)
    if settings.profile and listed.get(f"remote.{REMOTE}.profile") != settings.profile:
        _dvc(root, "remote", "modify", "--local", REMOTE, "profile", settings.profile)


def _is_pipeline(root: Path, record: Record) -> bool:
    """Whether dvc.yaml and params.yaml describe this very run."""
    from flows.execution.validation import settled

    elsewhere = {"store", "keep"}
    try:
        stage = (read_yaml(root / "dvc.yaml").get("stages") or {}).get("report") or {}
        if f"runs/{record.name}/report.html" not in (stage.get("outs") or ()):
            return False
        described = settled(read_params(root / "params.yaml")).model_dump(mode="json", exclude=elsewhere)
    except BadInput:  # none are there, or they are another run's, and what is wrong with them is its affair
        return False
    return described == {k: value for k, value in record.params.items() if k not in elsewhere}


def _commit(root: Path, name: str, place: Path, pointers: Sequence[str]) -> str:
    """Commit the pointers, and nothing else that is changed or staged; the commit that holds them."""
    within = place.relative_to(root).as_posix()
    wanted = (*pointers, *(f"{within}/{file}" for file in (".gitignore", *SMALL)), *POINTERS)
    paths = [path for path in wanted if (root / path).exists()]
    _git(root, "add", "--", *paths)
    if _run(["git", "diff", "--cached", "--quiet", "--", *paths], root).returncode:
        _git(root, "commit", "--quiet", "--message", f"Publish {name}", "--", *paths)
    return _git(root, "log", "-1", "--format=%H", "--", within).strip()


def _dvc(root: Path, *arguments: str) -> str:
    try:
        done = _run([sys.executable, "-m", "dvc", *arguments], root, DVC_SECONDS)
    except subprocess.TimeoutExpired:
        raise RemoteTrouble(f"dvc {arguments[0]}: did not end in {DVC_SECONDS:g} s", lasting=False) from None
    if done.returncode:
        raise RemoteTrouble(f"dvc {arguments[0]}: {_reason(done.stderr)}", lasting=False)
    return done.stdout


def _git(root: Path, *arguments: str) -> str:
    try:
        done = _run(["git", *arguments], root)
    except subprocess.TimeoutExpired:
        raise BadInput(
            f"git {arguments[0]}: did not end in {GIT_SECONDS:g} s; is it waiting for a person?"
        ) from None
    if done.returncode:
        raise BadInput(f"git {arguments[0]}: {_reason(done.stderr or done.stdout)}")
    return done.stdout


def _run(command: list[str], root: Path, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    """Of one that asks, nobody would see the question: there is nothing to read an answer from."""
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    return subprocess.run(
        command,
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds or GIT_SECONDS,
    )


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "fatal"))]
    return (errors or lines or ["failed without a word"])[0]
