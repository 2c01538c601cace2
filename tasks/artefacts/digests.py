"""SHA-256 of files, and large ones of an artefact side by side.

A core hashes about 1 GB a second, so that the 15 GB of a 7B in four files take a quarter of a minute one
after the other. While one file is pushed to the disk another can be hashed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

LARGE = 2**26
"""Bytes from which on a few threads are worth their start."""
_MOST_THREADS = 8

_digests: dict[tuple[int, int, int, int], str] = {}


def file_digest(path: Path) -> str:
    """SHA-256 of a file. In one process, a file whose inode has not been written since is read once.

    The time of the inode's change is left out: a hard link made or a directory renamed moves it.
    """
    stat = path.stat()
    key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key not in _digests:
        with path.open("rb") as handle:
            _digests[key] = hashlib.file_digest(handle, "sha256").hexdigest()
    return _digests[key]


def push(path: Path) -> None:
    """Return once what was written to a file is on the disk."""
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def pushed_digests(paths: Sequence[Path]) -> list[str]:
    """The digest of each, all of them on the disk."""
    size = sum(path.stat().st_size for path in paths)
    tasks: list[Callable[[], object]] = [partial(push, path) for path in paths]
    tasks += [partial(file_digest, path) for path in paths]
    at_once(tasks, size)
    return [file_digest(path) for path in paths]


def at_once(tasks: Sequence[Callable[[], T]], size: int) -> list[T]:
    """What each returns, in their order; in a few threads where they are about ``LARGE`` bytes or more.

    Raises what the first of them, in their order, raises.
    """
    if size < LARGE or len(tasks) < 2:
        return [task() for task in tasks]
    pool = ThreadPoolExecutor(min(len(tasks), _MOST_THREADS))
    try:
        return [future.result() for future in [pool.submit(task) for task in tasks]]
    finally:
        pool.shutdown(cancel_futures=True)  # whoever interrupts waits for what has begun alone
