"""The cache: finished artefacts by fingerprint, under ``artefacts/``, each whole or absent."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from params.base import BadInput
from tasks.artefacts.artefact import (
    EVERYTHING,
    MANIFEST,
    Artefact,
    Damaged,
    replace_directory,
    seal,
    write_manifest,
)
from tasks.artefacts.building import beside, locked
from tasks.artefacts.made_of import MadeOf

SPARE = 256 * 2**20
"""Bytes that must be free before a stage begins: on a full disk not even its failure could be recorded."""

MOMENT = 1.0
"""Seconds until a lock counts as another process's: whoever only looks at it has it for less."""

Fill = Callable[[Path], dict[str, Any]]
"""Fills an empty directory and returns the manifest's facts."""


class Store:
    """Artefacts of one workspace. Several processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.artefacts = root / "artefacts"
        self.made_of = MadeOf(self.artefacts)
        self._work = root / ".ostinato"

    def path(self, stage: str, fingerprint: str) -> Path:
        """Where the artefact with this fingerprint lies, or would lie: right below ``artefacts``, whoever
        wrote the two; raises ``Damaged`` for a name that leads elsewhere."""
        name = f"{stage}-{fingerprint[:20]}"
        if "/" in name or "\0" in name:
            raise Damaged(f"{self.artefacts}: {name!r} is no name of an artefact; expected one without '/'")
        return self.artefacts / name

    def find(self, stage: str, fingerprint: str, lacking: Container[str] = ()) -> Artefact | None:
        """The artefact, checked byte by byte; None where there is none; raises ``Damaged``, and ``Thinned``
        where a file was dropped that is not among those that may be ``lacking``."""
        path = self.path(stage, fingerprint)
        if not path.exists():
            return None
        if not (path / MANIFEST).exists():
            raise Damaged(f"{path / MANIFEST}: missing")
        artefact = Artefact.open(path, lacking=lacking)
        if artefact.fingerprint != fingerprint:
            raise Damaged(f"{path}: holds another artefact ({artefact.fingerprint[:12]})")
        return artefact

    def adopt(self, stage: str, fingerprint: str, place: Path) -> Artefact | None:
        """Take in an artefact that lies elsewhere (in a run, brought by DVC) if it is the right one; where it
        is thinned, as it is."""
        try:
            found = Artefact.open(place, lacking=EVERYTHING)
        except (Damaged, FileNotFoundError, NotADirectoryError):
            return None
        if found.fingerprint != fingerprint:
            return None
        self.put(self.path(stage, fingerprint), lambda new: link_tree(place, new))
        return self.find(stage, fingerprint, EVERYTHING)

    def make(self, stage: str, fingerprint: str, fill: Fill, again: Artefact | None = None) -> Artefact:
        """Build the artefact beside its place, seal it, move it in. What stood there before is replaced.

        ``again``: a thinned one that is made again; where the same files come out, its manifest stays, which
        says how and at what cost they were first made. Raises ``BadInput`` where the disk is nearly full, or
        becomes full.
        """
        self.need(0, f"make {stage}")
        target = self.path(stage, fingerprint)

        def build(new: Path) -> None:
            made = seal(new, stage=stage, fingerprint=fingerprint, **fill(new))
            if again is not None and made.digest == again.digest:
                write_manifest(new, again.manifest)

        try:
            self.put(target, build)
        except (OSError, SafetensorError) as error:
            if not _says_full(error):
                raise
            raise BadInput(
                f"{self.root}: no space left to make {stage}; what was made before is kept (make room, or "
                "set OSTINATO_HOME to another disk)"
            ) from None
        return Artefact.open(target)

    @contextmanager
    def lock(
        self,
        name: str,
        busy: str | None = None,
        waits: Callable[[str], None] | None = None,
        moment: float = MOMENT,
    ) -> Iterator[None]:
        """Hold ``name`` against other processes. Where another has it for longer than a ``moment``: ``busy``
        is raised as ``BadInput`` instead of waiting; ``waits`` is called with the number of that process.

        The lock is the operating system's: it ends with the process, however that ends.
        """
        path = self._lock_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as handle:
            if not locked(handle, moment if busy or waits else 0.0):
                if busy:
                    raise BadInput(f"{busy} (process {self._said_holder(name)})")
                if waits:
                    waits(self._said_holder(name))
                fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            handle.truncate()
            handle.write(str(os.getpid()))
            handle.flush()
            yield

    @contextmanager
    def reading(self, names: Iterable[str]) -> Iterator[bool]:
        """Hold what several processes may hold at once against ``lock`` of the same names; False, and hold
        nothing, where a process has one of them: to wait for one while holding another could be for ever."""
        folder = self._work / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                for name in names:
                    handle = held.enter_context((folder / f"{name}.lock").open("a+"))
                    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                held.close()
                yield False
            else:
                yield True

    def held(self, name: str) -> bool:
        """Whether a process holds ``lock(name)``."""
        try:
            with self._lock_file(name).open("r+") as handle:
                return not locked(handle, 0.0)
        except FileNotFoundError:
            return False

    def all_held(self, begins: str) -> list[str]:
        """The names, of those that begin so, whose ``lock`` a process holds."""
        found = sorted((self._work / "locks").glob(f"{begins}*.lock"))
        return [name for path in found if self.held(name := path.name.removesuffix(".lock"))]

    def holder(self, name: str) -> str | None:
        """The number of the process that holds ``lock(name)``, if that is known; None where none does."""
        return self._said_holder(name) if self.held(name) else None

    def _said_holder(self, name: str) -> str:
        return self._lock_file(name).read_text().strip() or "unknown"

    def identity(self) -> str:
        """What tells this workspace from every other one, wherever that lies: made by chance, and kept."""
        path = self._work / "identity"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f"identity.{os.getpid()}")
            new.write_text(uuid.uuid4().hex)
            try:
                os.link(new, path)
            except FileExistsError:
                pass  # another process was faster
            except OSError:  # a file system without links
                os.replace(new, path)
            new.unlink(missing_ok=True)
        return path.read_text().strip()

    def _lock_file(self, name: str) -> Path:
        return self._work / "locks" / f"{name}.lock"

    def scratch(self, name: str) -> Path:
        """A fresh directory for what no artefact needs."""
        path = self.scratch_path(name)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def scratch_path(self, name: str) -> Path:
        """Where such a directory lies, made or not."""
        return self._work / "scratch" / name

    def downloads(self) -> Path:
        """Where files from a bucket arrive, by their digests; what broke off waits there to be finished."""
        path = self._work / "downloads"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def need(self, bytes: int, what: str) -> None:
        """Raise ``BadInput`` where the disk has no room for so much more."""
        free = free_bytes(self.root)
        if free < bytes + SPARE:
            raise BadInput(
                f"{self.root}: {free // 2**20} MiB free; expected at least {(bytes + SPARE) // 2**20} "
                f"to {what} (make room, or set OSTINATO_HOME to another disk)"
            )

    def discard(self, path: Path) -> None:
        """Remove a directory of the workspace, at once for whoever looks: it is moved aside first."""
        with self.beside(path.name) as aside:
            path.rename(aside)
            shutil.rmtree(aside)

    @contextmanager
    def beside(self, name: str) -> Iterator[Path]:
        """Where something is built before it is moved to its place."""
        building = self._work / "building"
        building.mkdir(parents=True, exist_ok=True)
        with beside(building, name) as new:
            yield new

    def put(self, target: Path, build: Callable[[Path], object]) -> None:
        """Let ``build`` fill a directory beside ``target``, and move it there whole."""
        with self.beside(target.name) as new:
            new.mkdir()
            build(new)
            replace_directory(new, target)


def free_bytes(place: Path) -> int:
    """Of the disk on which a directory lies, or will lie."""
    return shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free


def link_tree(source: Path, target: Path) -> None:
    """The files of ``source`` under ``target``: hard links where the file system allows, else copies."""

    def place(src: str, dst: str) -> None:
        try:
            os.link(src, dst)
        except OSError:
            shutil.copy2(src, dst)

    shutil.copytree(source, target, copy_function=place, dirs_exist_ok=True)


def publish(artefact: Artefact, place: Path) -> None:
    """Show an artefact at a run's path, unless it is there already, with what is left of it."""
    with suppress(FileNotFoundError, NotADirectoryError, Damaged):
        found = Artefact.open(place, check=False)
        if found.manifest == artefact.manifest:
            found.check(lacking=artefact.dropped)
            return
    new = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    link_tree(artefact.path, new)
    replace_directory(new, place)


def _says_full(error: Exception) -> bool:
    """Whether a disk, or a person's share of it, is full; safetensors wraps what the system says."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in full
    return any(f"(os error {code})" in str(error) for code in full)
