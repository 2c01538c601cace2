"""Where artefacts are built before they are moved to their places, and what a killed process leaves there.

Whoever builds, on whichever machine that shares the workspace, holds a lock beside it meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

OLD = ".old"
"""What ``replace_directory`` names what stood there before."""
LOCK = ".lock"
LOOKS = 0.02
"""Seconds between two attempts at a lock."""


@contextmanager
def beside(building: Path, name: str) -> Iterator[Path]:
    """A path in that folder where nothing lies yet; what lies there at the end goes. What others left
    half-built is removed first."""
    sweep(building)
    while True:
        new = building / f"{name}.{uuid.uuid4().hex}"
        with _lock_of(new).open("a+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not os.fstat(handle.fileno()).st_nlink:
                continue  # it was swept before it was held
            try:
                yield new
            finally:
                _clear(new)
                _lock_of(new).unlink(missing_ok=True)
            return


def sweep(building: Path) -> None:
    """Remove what processes that no longer run left half-built. What has no lock beside it is named by the
    process that made it, on this machine."""
    for path in [*building.iterdir()]:
        if path.name.endswith(LOCK):
            _sweep_locked(path)
        elif not _lock_of(path).exists():
            owner = path.name.removesuffix(OLD).rpartition(".")[2]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                _remove(path)


def _sweep_locked(lock: Path) -> None:
    with suppress(FileNotFoundError), lock.open("r+") as handle:
        if locked(handle, 0.0):
            _clear(lock.with_name(lock.name.removesuffix(LOCK)))
            lock.unlink(missing_ok=True)


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(OLD) + LOCK)


def _clear(new: Path) -> None:
    for path in (new, new.with_name(new.name + OLD)):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def locked(handle: IO[str], seconds: float) -> bool:
    """Lock a file; False where that was not to be had in so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOOKS)
        else:
            return True
