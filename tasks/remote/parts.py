"""A file that arrives in parts: what is there survives its process, and two processes do not mix theirs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tasks.artefacts.artefact import sync_directory


def parts_of(size: int, part: int) -> list[tuple[int, int]]:
    """Start and stop of each part; one empty part for an empty file."""
    return [(start, min(start + part, size)) for start in range(0, max(size, 1), part)]


def entity_tag(path: Path, size: int, part: int) -> str:
    """S3's name for the content of a file that was sent in parts of that size: an MD5, or one over MD5s."""
    digests = []
    with path.open("rb") as handle:
        for start, stop in parts_of(size, part):
            digests.append(hashlib.md5(handle.read(stop - start), usedforsecurity=False))
    if len(digests) == 1:
        return digests[0].hexdigest()
    joined = b"".join(digest.digest() for digest in digests)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(digests)}"


class Partial:
    """``NAME.part`` beside the file that it becomes, and ``NAME.parts``, which lists what it holds so far."""

    def __init__(self, place: Path, size: int, part: int) -> None:
        self._place, self._size, self._part = place, size, part
        self._data = place.with_name(f"{place.name}.part")
        self._list = place.with_name(f"{place.name}.parts")
        self._writing = threading.Lock()
        self.finished = False
        """Whether somebody else brought the file, before this process or while it waited."""

    def __enter__(self) -> Partial:
        self._place.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as otherwise:
            while True:
                self._descriptor = os.open(self._data, os.O_RDWR | os.O_CREAT, 0o644)
                otherwise.callback(os.close, self._descriptor)
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
                if self._current():
                    break
                otherwise.close()  # its owner finished it while we waited
            if self._place.exists():
                self.finished = True
                self._data.unlink()
            otherwise.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def missing(self) -> list[tuple[int, int]]:
        """The parts that are not here yet."""
        heading = f"{self._size} {self._part}"
        try:
            first, *lines = self._list.read_text().split("\n")
        except (FileNotFoundError, UnicodeDecodeError):
            first, lines = "", []
        if first != heading:
            os.ftruncate(self._descriptor, 0)
            self._list.write_text(f"{heading}\n")
            lines = []
        there = {int(line) for line in lines if line.isdigit()}
        return [(start, stop) for start, stop in parts_of(self._size, self._part) if start not in there]

    def add(self, start: int, data: bytes) -> None:
        """Keep a part."""
        view, at = memoryview(data), start
        while view:
            written = os.pwrite(self._descriptor, view, at)
            view, at = view[written:], at + written
        with self._writing, self._list.open("a") as handle:
            handle.write(f"{start}\n")

    def finish(self, good: Callable[[Path], bool]) -> bool:
        """Make it the file, if it is ``good``; else forget it, and answer False."""
        os.fsync(self._descriptor)
        whole = os.fstat(self._descriptor).st_size == self._size and good(self._data)
        self._list.unlink(missing_ok=True)
        if not whole:
            self._data.unlink()
            return False
        os.replace(self._data, self._place)
        sync_directory(self._place.parent)
        return True

    def _current(self) -> bool:
        try:
            return os.stat(self._data).st_ino == os.fstat(self._descriptor).st_ino
        except FileNotFoundError:
            return False
