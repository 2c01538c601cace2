"""What a workspace holds on disk, and which of it nothing names any more.

An artefact is needed where a run or a comparison names it, in its record or by what lies in its directory, or
where one that is needed was made of it. Files are hard links, of which each counts once, and nothing is freed
before the last link is gone.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from params.base import BadInput, nearest
from tasks.artefacts.artefact import MANIFEST, Artefact, Damaged
from tasks.artefacts.record import RECORD, Record
from tasks.artefacts.store import Store

LASTING = frozenset({"verdicts"})
"""Stages whose artefacts no run names, and that are kept: answers of a judge model cost money."""
BEGUN = frozenset({"part", "shard"})
"""Stages whose artefacts let a stage that was cut off go on."""


@dataclass(frozen=True)
class Garbage:
    """A directory that can go."""

    path: Path
    why: str
    bytes: int
    """Of its files, whether or not others are linked to them."""


@dataclass(frozen=True)
class Use:
    """What a run, or all else, takes."""

    name: str
    bytes: int
    """Of its files."""
    alone: int
    """Of those that are nowhere else: what goes if it is dropped and collected."""
    stages: dict[str, int]
    """Bytes by stage."""


def busy(store: Store) -> list[str]:
    """The runs that a process is at, whether or not they have a record yet; ``NAME-PLACE`` where DVC makes a
    stage of one."""
    return [name.removeprefix("run-") for name in store.all_held("run-")]


def garbage(store: Store, dropped: Sequence[str] = ()) -> list[Garbage]:
    """What can go, runs that are to be dropped first.

    Raises ``BadInput`` where one of those cannot go, or where what a run names cannot be known.
    """
    runs = {path.parent.name: path.parent for path in records(store.root)}
    for name in dropped:
        _check_dropped(store.root, name, runs)
    kept = [path for name, path in runs.items() if name not in dropped]
    needed = _needed(store, kept)
    unfinished = [path.name for path in kept if not Record.read(path).finished]
    found = [_garbage(runs[name], "dropped") for name in dict.fromkeys(dropped)]
    for path in sorted(store.artefacts.glob("*-*")):
        stage = path.name.rpartition("-")[0]
        if path.name in needed or stage in LASTING or (stage in BEGUN and unfinished):
            continue
        found.append(_garbage(path, "no run or comparison names it"))
    return found


def _check_dropped(root: Path, name: str, runs: Collection[str]) -> None:
    if name not in runs:
        raise BadInput(f"--drop {name}: no such run{nearest(name, runs)}")
    if pipeline := in_pipeline(root, name):
        raise BadInput(f"--drop {name}: {pipeline} names it; `ostinato dvc` for another run comes first")


def in_pipeline(root: Path, name: str) -> Path | None:
    """The workspace's ``dvc.yaml``, where that names a run."""
    pipeline = root / "dvc.yaml"
    named = pipeline.is_file() and f"runs/{name}/" in pipeline.read_text(encoding="utf-8")
    return pipeline if named else None


def collect(store: Store, found: Iterable[Garbage]) -> None:
    """Remove it, each directory whole or not at all: what a killed process leaves of one is swept away by the
    next that makes something."""
    for each in found:
        store.discard(each.path)


def freed(found: Sequence[Garbage]) -> int:
    """Bytes that the disk gains: of files that have no link elsewhere."""
    return _alone([file for each in found for file in _files(each.path)])


def uses(store: Store) -> list[Use]:
    """What each run takes, the largest first, and what no run shows."""
    by_run = {path.parent.name: list(_files(path.parent)) for path in records(store.root)}
    shown = {_inode(file) for files in by_run.values() for file in files}
    rest = [file for file in _files(store.artefacts) if _inode(file) not in shown]
    found = [_use(name, files, store.root / "runs" / name) for name, files in by_run.items()]
    found.sort(key=lambda use: (-use.bytes, use.name))
    return [*found, _use("", rest, store.artefacts)] if rest else found


def total(store: Store) -> int:
    """Bytes of the workspace's runs, comparisons and cache, each file once."""
    places = (store.artefacts, store.root / "runs", store.root / "comparisons")
    return _bytes(file for place in places for file in _files(place))


def records(root: Path) -> list[Path]:
    """The record of each run of a workspace."""
    return sorted((root / "runs").glob(f"*/{RECORD}"))


def _needed(store: Store, runs: Sequence[Path]) -> set[str]:
    """The directories of the cache that these runs and every comparison stand on."""
    waiting: list[str] = []
    for run in runs:
        waiting += [store.path(step.stage, step.fingerprint).name for step in Record.read(run).steps]
        waiting += _named_below(store, run)
    waiting += _named_below(store, store.root / "comparisons")
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _names(store, store.artefacts / name)
    return found


def _named_below(store: Store, place: Path) -> list[str]:
    """The artefacts that lie at a place (DVC may have brought them), and what they were made of."""
    return [name for path in place.rglob(MANIFEST) for name in _names(store, path.parent)]


def _names(store: Store, place: Path) -> list[str]:
    """The artefact at a place, and what it was made of; none where there is none that can be read."""
    try:
        manifest = Artefact.open(place, check=False).manifest
    except (Damaged, FileNotFoundError, NotADirectoryError):
        return []
    named = ((each.stage, each.fingerprint) for each in manifest.inputs.values())
    return [store.path(*each).name for each in ((manifest.stage, manifest.fingerprint), *named)]


def _garbage(path: Path, why: str) -> Garbage:
    return Garbage(path, why, _bytes(_files(path)))


def _use(name: str, files: Sequence[Path], place: Path) -> Use:
    stages: dict[str, list[Path]] = {}
    for file in files:
        parts = file.relative_to(place).parts
        stage = parts[1] if len(parts) > 2 and parts[0].startswith("round-") else parts[0]
        stages.setdefault(stage if len(parts) > 1 else "", []).append(file)
    own = {stage: _bytes(each) for stage, each in stages.items()}
    return Use(name, _bytes(files), _alone(files, links=2), dict(sorted(own.items(), key=lambda x: -x[1])))


def _files(place: Path) -> Iterator[Path]:
    return (path for path in place.rglob("*") if path.is_file() and not path.is_symlink())


def _inode(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _bytes(files: Iterable[Path]) -> int:
    return sum({_inode(file): file.stat().st_size for file in files}.values())


def _alone(files: Sequence[Path], links: int = 1) -> int:
    """Bytes of files all of whose links are among these, or but for so many less one (the cache's own)."""
    seen: dict[tuple[int, int], int] = {}
    for file in files:
        seen[_inode(file)] = seen.get(_inode(file), 0) + 1
    stats = {(s.st_dev, s.st_ino): s for s in (os.stat(file) for file in files)}
    return sum(s.st_size for key, s in stats.items() if s.st_nlink <= seen[key] + links - 1)
