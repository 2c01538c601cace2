"""What a run shows a person, apart from what libraries print by themselves, which goes to the run's log."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from params.base import BadInput
from tasks.core.errors import StageFailure


@dataclass(frozen=True)
class Output:
    """The terminal, or whatever reads the program's words."""

    out: TextIO
    err: TextIO


_original: list[int] = []
"""Descriptors of standard output and error while a log has their place."""


@contextmanager
def logged(root: Path, name: str) -> Iterator[Output]:
    """``captured`` in the log of a run of the workspace ``root``, which a failed stage's message names."""
    log = root / ".ostinato" / "logs" / f"{name}.log"
    fresh = not log.exists()
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with captured(log, name) as output:
            yield output
    except BadInput:
        if fresh:  # what was refused leaves nothing behind
            log.unlink()
            for folder in (log.parent, log.parent.parent):
                with suppress(OSError):  # something else is in it
                    folder.rmdir()
        raise
    except StageFailure as failure:
        raise StageFailure(f"{failure} (log: {log})") from failure


@contextmanager
def captured(log: Path, command: str = "") -> Iterator[Output]:
    """Inside the block standard output and error, of every library and process, are appended to ``log``;
    ``Output`` leads to the original ones."""
    with log.open("a") as file:
        print(f"\n{datetime.now(UTC).isoformat(timespec='seconds')} {command}", file=file, flush=True)
        _flush()
        _original[:] = os.dup(1), os.dup(2)
        with os.fdopen(os.dup(1), "w") as out, os.fdopen(os.dup(2), "w") as err:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            try:
                yield Output(out, err)
            finally:
                restore()


def restore() -> None:
    """Standard output and error are the original ones again."""
    if _original:
        _flush()
        for number, descriptor in zip((1, 2), _original, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        _original.clear()


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
