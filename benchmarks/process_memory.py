"""Peak memory of a process and all that descend from it, in pages that count once (PSS)."""

from __future__ import annotations

import contextlib
import threading

import psutil

SECONDS = 1.0
"""Between two looks; a look walks the page tables and costs some 20 ms."""


class PeakMemory:
    """Watches a process tree while the block lasts; then ``bytes`` is the most that it held at once."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SECONDS):
            self.bytes = max(self.bytes, _tree(self._pid))


def _tree(pid: int) -> int:
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    found = 0
    for member in family:
        with contextlib.suppress(psutil.Error):  # it has ended since
            found += member.memory_full_info().pss
    return found
