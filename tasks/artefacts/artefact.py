"""An artefact: a directory whose ``manifest.json``, written last, says what made it and what it holds.

No manifest: it does not exist. A digest that does not match: it is damaged, and ``Damaged`` says where.
Everything that varies from one making to the next (timings, speeds, memory) stands in the manifest;
the files themselves hold nothing but what the fingerprint determines.

An artefact may be *thinned*: ``thinned.json`` names files of it that were dropped since it was made, as the
``keep`` of its run says. Its manifest still says what they were, so that what was made of it still fits it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Container, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from params.base import BadInput
from params.errors import OstinatoError
from tasks.artefacts.digests import at_once, file_digest, pushed_digests
from tasks.artefacts.role import Role

MANIFEST = "manifest.json"
THINNED = "thinned.json"
MOMENTS = "optimizer.safetensors"
"""The file of a policy that nothing but the next update reads."""


class _Everything(Container[str]):
    def __contains__(self, name: object) -> bool:
        return True


EVERYTHING = _Everything()
"""As ``lacking``: any of its files may have been dropped."""


class Damaged(OstinatoError):
    """An artefact is there and is not what its manifest says."""

    exit_code = 2


class Thinned(Damaged):
    """A file that is asked for was dropped, as the ``keep`` of a run says."""


class File(BaseModel):
    """One file of an artefact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bytes: int
    sha256: str


class Source(BaseModel):
    """One input of an artefact, by identity and by content."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    fingerprint: str
    digest: str


class Manifest(BaseModel):
    """What an artefact is, what it was made of and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    role: Role
    round: int
    fingerprint: str
    seed: int
    params: dict[str, Any]
    inputs: dict[str, Source]
    code: dict[str, str]
    """What each module said that it was made with, as a digest by the module's name."""
    own_files: dict[str, str] = {}
    """The same of files of the user's own, by path."""
    files: dict[str, File]
    digest: str
    versions: dict[str, str]
    measured: dict[str, float]
    accepted: dict[str, str] = {}
    """Modules that have changed since it was made, and whose change a person has accepted: what each was."""
    answers: Source | None = None
    """Whose answers it has, where they were judged anew and not sampled anew."""

    def to_bytes(self) -> bytes:
        """The canonical file: a change of any byte of it is noticed, since reading checks both forms."""
        body = self.model_dump(mode="json")
        for name in ("accepted", "answers"):
            if not body[name]:
                del body[name]
        seal = hashlib.sha256(canonical(body)).hexdigest()
        return (json.dumps({**body, "seal": seal}, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: Path) -> Manifest:
        """Parse and check; raises ``Damaged``."""
        try:
            body = json.loads(data)
            body.pop("seal", None)
            manifest = cls.model_validate(body)
        except (ValueError, AttributeError):
            raise Damaged(f"{where}: not a manifest") from None
        if manifest.to_bytes() != data:
            raise Damaged(f"{where}: its bytes do not match its seal")
        return manifest


class Thinning(BaseModel):
    """What was dropped of an artefact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    digest: str
    """The artefact's."""
    dropped: tuple[str, ...]
    """Names of its files, sorted; after an interruption some of them may still be there."""
    figures: dict[str, float | int | None] = {}
    """What a report says of the files that are gone."""

    def to_bytes(self) -> bytes:
        """As a manifest's."""
        body = self.model_dump(mode="json")
        seal = hashlib.sha256(canonical(body)).hexdigest()
        return (json.dumps({**body, "seal": seal}, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: Path) -> Thinning:
        """Parse and check; raises ``Damaged``."""
        try:
            body = json.loads(data)
            body.pop("seal", None)
            found = cls.model_validate(body)
        except (ValueError, AttributeError):
            raise Damaged(f"{where}: does not say what was dropped") from None
        if found.to_bytes() != data:
            raise Damaged(f"{where}: its bytes do not match its seal")
        return found


class Artefact:
    """A finished artefact on disk."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Artefact({self.manifest.stage}, {self.fingerprint[:12]}, {self.path})"

    @property
    def fingerprint(self) -> str:
        """What it was to be: stage, parameters, inputs, code, seed."""
        return self.manifest.fingerprint

    @property
    def digest(self) -> str:
        """What it is: a digest over the digests of its files."""
        return self.manifest.digest

    @property
    def thinned(self) -> Thinning | None:
        """What was dropped of it, as it stands on disk now; None where it is whole. Raises ``Damaged``."""
        path = self.path / THINNED
        try:
            found = Thinning.from_bytes(path.read_bytes(), path)
        except FileNotFoundError:
            return None
        if found.digest != self.digest or not set(found.dropped) <= set(self.manifest.files):
            raise Damaged(f"{path}: speaks of another artefact")
        return found

    @property
    def dropped(self) -> tuple[str, ...]:
        """The names of the files that were dropped of it."""
        found = self.thinned
        return found.dropped if found else ()

    def file(self, name: str) -> Path:
        """The path of one of its files; raises ``Damaged`` for one that it does not list, ``Thinned`` for one
        that was dropped."""
        if name not in self.manifest.files:
            raise Damaged(f"{self.path / name}: not part of this artefact; was it made by another version?")
        if name in self.dropped:
            raise Thinned(_gone(self.path, [name]))
        return self.path / name

    def json(self, name: str) -> Any:
        """One of its JSON files."""
        return json.loads(self.file(name).read_text())

    @classmethod
    def open(cls, path: Path, check: bool = True, lacking: Container[str] = ()) -> Artefact:
        """The artefact at ``path``; raises ``FileNotFoundError`` where none is, ``Damaged`` where one was,
        and ``Thinned`` where a file was dropped that is not among those that may be ``lacking``."""
        manifest = Manifest.from_bytes((path / MANIFEST).read_bytes(), path / MANIFEST)
        artefact = cls(path, manifest)
        if check:
            artefact.check(lacking)
        return artefact

    @classmethod
    def needed(cls, path: Path, remedy: str, lacking: Container[str] = ()) -> Artefact:
        """``open`` for what must be there; raises ``BadInput`` that ends with the ``remedy``."""
        try:
            return cls.open(path, lacking=lacking)
        except (FileNotFoundError, NotADirectoryError):
            raise BadInput(f"{path / MANIFEST}: missing; {remedy}") from None
        except Thinned as thinned:
            raise BadInput(str(thinned)) from None
        except Damaged as damage:
            raise BadInput(f"{damage}; {remedy}") from None

    def check(self, lacking: Container[str] = ()) -> None:
        """Compare every file with the manifest; raises as ``open`` does, for the first difference."""
        present = {p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file()}
        listed = set(self.manifest.files)
        for name in sorted(present - listed - {MANIFEST, THINNED}):
            raise Damaged(f"{self.path / name}: not part of this artefact")
        dropped = set(self.dropped)  # after the listing: what goes meanwhile is named before
        for name in sorted(listed - present - dropped):
            raise Damaged(f"{self.path / name}: missing")
        kept = [name for name in self.manifest.files if name not in dropped]
        size = sum(self.manifest.files[name].bytes for name in kept)
        for name, holds in zip(
            kept, at_once([partial(self._holds, name) for name in kept], size), strict=True
        ):
            if not holds:
                raise Damaged(f"{self.path / name}: its bytes do not match its digest")
        if gone := [name for name in self.dropped if name not in lacking]:
            raise Thinned(_gone(self.path, gone))

    def _holds(self, name: str) -> bool:
        """Whether a file is what the manifest says, or was dropped this moment."""
        path, file = self.path / name, self.manifest.files[name]
        try:
            return path.stat().st_size == file.bytes and file_digest(path) == file.sha256
        except FileNotFoundError:
            return name in self.dropped


def _gone(path: Path, names: Sequence[str]) -> str:
    run, place = ("RUN", "PLACE")
    if "runs" in path.parts[:-2]:
        run, *rest = path.parts[len(path.parts) - path.parts[::-1].index("runs") :]
        place = "/".join(rest)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    again = f"`ostinato restore {run}/{place}` makes it again"
    return f"{path / names[0]}: dropped{more}, as the run's keep says; {again}"


def source_of(artefact: Artefact) -> Source:
    """It as an input of another."""
    return Source(stage=artefact.manifest.stage, fingerprint=artefact.fingerprint, digest=artefact.digest)


def seal(directory: Path, **facts: Any) -> Manifest:
    """Write the manifest of a directory that is complete otherwise, and push all of it to the disk."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file())
    files = {
        path.relative_to(directory).as_posix(): File(bytes=path.stat().st_size, sha256=digest)
        for path, digest in zip(paths, pushed_digests(paths), strict=True)
    }
    digest = hashlib.sha256(canonical({name: file.sha256 for name, file in files.items()})).hexdigest()
    manifest = Manifest(files=files, digest=digest, **facts)
    write_manifest(directory, manifest)
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write it, and push it to the disk."""
    with (directory / MANIFEST).open("wb") as handle:
        handle.write(manifest.to_bytes())
        handle.flush()
        os.fsync(handle.fileno())
    sync_directory(directory)


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sync_directory(path: Path) -> None:
    """Make a rename inside ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_directory(new: Path, target: Path) -> None:
    """Put ``new`` where ``target`` is: whole or not at all. An old one is moved out of the way first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        old = new.with_name(new.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)
        os.replace(new, target)
        shutil.rmtree(old)
    else:
        os.replace(new, target)
    sync_directory(target.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, with the same bytes for equal values."""
    replace_file(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def replace_file(path: Path, text: str) -> None:
    """Write a text whole or not at all, though the power be cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)
