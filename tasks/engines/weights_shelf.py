"""Weights that a trainer has sent to a server's machine: files in a folder of the server's own, by digest.

What is sent is announced first: names, sizes and SHA-256 of its files, which together give it its name.
Nothing of a request becomes a path but names that are checked. A file is taken in parts, in order; what has
come stays when the sender breaks off. A process keeps the last few and removes them at its end; what a killed
one left is removed by the next.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from params.errors import OstinatoError

CACHE = "OSTINATO_WEIGHTS_CACHE"
"""The environment variable that names the folder for such folders; unset: that for temporary files."""
LIMIT = "OSTINATO_WEIGHTS_GIB"
"""The environment variable with the largest weights that a server takes, in GiB."""
LIMIT_GIB = 64.0
KEPT = 3
"""Weights that stay; more than one, since adapters are read when they are first used."""
FILES = 256
PART_BYTES = 4 << 20
"""Of a file that come in one request at most."""
FREE_BYTES = 1 << 30
"""Of the disk that stay free."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\.(json|safetensors|txt|model|jinja)")
DIGEST = re.compile(r"[0-9a-f]{64}")
PREFIX = "ostinato-weights-"
YOUNG_SECONDS = 60.0
"""Before which a folder that nobody has locked yet is not taken for a dead process's."""


class Refusal(OstinatoError):
    """What was asked is not done."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        """Of the answer over HTTP."""


@dataclass(frozen=True)
class File:
    """A file as it is announced."""

    name: str
    size: int
    """In bytes."""
    digest: str
    """SHA-256, in hexadecimal digits."""


def name_of(files: Sequence[File]) -> str:
    """What weights of these files are called: the SHA-256 of the announcement."""
    told = sorted([file.name, file.size, file.digest] for file in files)
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def announced(body: Any) -> list[File]:
    """The files of an announcement; raises ``Refusal`` for what none is."""
    found = []
    entries = body.get("files") if isinstance(body, dict) else None
    if not isinstance(entries, list) or len(entries) > FILES:
        raise Refusal(400, f"no list of files; expected one of {FILES} at most")
    for entry in entries:
        told = entry if isinstance(entry, dict) else {}
        name, size, digest = (told.get(key) for key in ("name", "size", "sha256"))
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise Refusal(400, f"{str(name)[:80]!r} is no name of a file; expected a plain one, of weights")
        if type(size) is not int or size < 1 or not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise Refusal(400, f"{name}: no size and SHA-256; expected both")
        found.append(File(name, size, digest))
    if len({file.name for file in found}) < len(found):
        raise Refusal(400, "a file comes twice; expected each once")
    return found


@dataclass
class _Incoming:
    """A file that has come in part."""

    file: File
    held: int = 0
    hasher: Any = field(default_factory=hashlib.sha256)


class Shelf:
    """Takes weights in; from any number of threads."""

    def __init__(self, root: Path, limit_bytes: int, kept: int = KEPT) -> None:
        self._root, self._limit, self._kept = root, limit_bytes, kept
        self._sets: dict[str, dict[str, _Incoming]] = {}
        """By name, the one that was asked for last at the end."""
        self._lock = threading.Lock()

    def begin(self, files: Sequence[File]) -> dict[str, int]:
        """Make room for these; bytes that are here of each file that is not whole."""
        name, size = name_of(files), sum(file.size for file in files)
        with self._lock:
            known = self._sets.pop(name, None)
            if known is None:
                self._check_room(size)
                (self._root / name).mkdir()
                known = {file.name: _Incoming(file) for file in files}
            self._sets[name] = known
            return {one.file.name: one.held for one in known.values() if one.held < one.file.size}

    def add(self, name: str, file: str, start: int, data: bytes, digest: str) -> int:
        """Take the part of a file from byte ``start`` on; the bytes that are here then."""
        if hashlib.sha256(data).hexdigest() != digest:
            raise Refusal(422, f"{file[:80]}: the part at byte {start} came with another digest")
        with self._lock:
            known = self._sets.get(name, {}).get(file)
            if known is None:
                raise Refusal(409, f"{file[:80]}: not announced; expected its weights to be first")
            if start != known.held or not data or start + len(data) > known.file.size:
                raise Refusal(409, f"{file}: bytes from {start} on; expected those from {known.held} on")
            path = self._root / name / known.file.name
            with path.open("r+b" if start else "wb") as into:
                into.seek(start)  # a write that broke off is written over
                into.write(data)
            known.hasher.update(data)
            known.held += len(data)
            if known.held == known.file.size and known.hasher.hexdigest() != known.file.digest:
                self._sets[name][file] = _Incoming(known.file)
                raise Refusal(422, f"{file}: its digest is another than was announced")
            return known.held

    def folder(self, name: str) -> Path:
        """Where weights of this name lie; raises ``Refusal`` where they are not, or not whole."""
        with self._lock:
            known = self._sets.get(name, {})
            if not known or any(one.held < one.file.size for one in known.values()):
                raise Refusal(503, f"weights {name[:24]} are not here, or not whole")
            self._sets[name] = self._sets.pop(name)
            return self._root / name

    def _check_room(self, size: int) -> None:
        """Remove what is too old to be kept, and refuse what is too large."""
        if size > self._limit:
            most = f"{self._limit / 2**30:g}, or more in {LIMIT}"
            raise Refusal(413, f"weights of {size / 2**30:.3g} GiB; expected at most {most}")
        while len(self._sets) >= self._kept:
            oldest = next(iter(self._sets))
            del self._sets[oldest]
            shutil.rmtree(self._root / oldest, ignore_errors=True)
        free = shutil.disk_usage(self._root).free - FREE_BYTES
        if size > free:
            raise Refusal(507, f"weights of {size / 2**30:.1f} GiB, and {free / 2**30:.1f} free for them")


def opened() -> Shelf:
    """A shelf in a new folder, which is removed when this process ends."""
    above = Path(os.environ.get(CACHE) or tempfile.gettempdir())
    for old in above.glob(f"{PREFIX}*"):
        _remove_dead(old)
    root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=above))
    lock = (root / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    atexit.register(_remove, root, lock)
    return Shelf(root, int(float(os.environ.get(LIMIT) or LIMIT_GIB) * 2**30))


def _remove(root: Path, lock: Any) -> None:
    shutil.rmtree(root, ignore_errors=True)
    lock.close()


def _remove_dead(folder: Path) -> None:
    """Remove a folder of ours whose process is no more."""
    with contextlib.suppress(OSError):
        status = folder.stat(follow_symlinks=False)
        if status.st_uid != os.getuid() or time.time() - status.st_mtime < YOUNG_SECONDS:
            return
        with (folder / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
