"""The processor time of a command's processes, told apart by their command lines, over its course."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import psutil

EVERY = 0.1
"""Seconds between two looks."""


class CpuTimes:
    """Runs a command and looks at its processes all the while."""

    def __init__(self, parts: Mapping[str, str], rest: str, mark: Callable[[], int]) -> None:
        """``parts``: what a process is called whose command line holds that text; others are ``rest``.
        ``mark``: how far the command is, a number that only grows."""
        self._parts, self._rest, self._mark = parts, rest, mark
        self._seen: dict[int, tuple[str, float]] = {}
        self._marks: dict[int, dict[str, float]] = {}

    def run(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Raises ``CalledProcessError`` where the command fails."""
        ended = threading.Event()
        with subprocess.Popen(command, env=dict(env)) as process:
            looking = threading.Thread(target=self._look, args=(psutil.Process(process.pid), ended))
            looking.start()
            process.wait()
            ended.set()
            looking.join()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)

    def between(self, first: int, last: int) -> dict[str, float]:
        """Seconds of processor time of each part from one mark to another, each as it was first seen."""
        before, after = (
            self._marks[min(mark for mark in self._marks if mark >= wanted)] for wanted in (first, last)
        )
        return {name: after[name] - before.get(name, 0.0) for name in after}

    def _look(self, root: psutil.Process, ended: threading.Event) -> None:
        while not ended.wait(EVERY):
            with suppress(psutil.Error):
                for process in [root, *root.children(recursive=True)]:
                    self._add(process)
            self._note()
        self._note()

    def _note(self) -> None:
        if (mark := self._mark()) not in self._marks:
            self._marks[mark] = self._sums()

    def _add(self, process: psutil.Process) -> None:
        with suppress(psutil.Error):  # it came and went
            line, times = " ".join(process.cmdline()), process.cpu_times()
            name = next((name for text, name in self._parts.items() if text in line), self._rest)
            self._seen[process.pid] = name, times.user + times.system

    def _sums(self) -> dict[str, float]:
        sums = dict.fromkeys([*self._parts.values(), self._rest], 0.0)
        for name, seconds in self._seen.values():
            sums[name] += seconds
        return sums
