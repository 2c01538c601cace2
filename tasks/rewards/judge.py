"""Judging in processes that can be killed: an answer that hangs, crashes or eats memory harms no other.

Each worker is a child process with one thread here that feeds it. The thread, not the caller, starts the
child: on Linux it dies with the thread that started it, and callers' threads come and go.
"""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from params.base import Choice
from tasks.core.errors import StageFailure
from tasks.rewards.base import Bounds, Verdict
from tasks.rewards.contract import find_reward

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 120.0
_TRIES = 3
_COMMAND = (sys.executable, "-P", "-m", "tasks.rewards.worker")


class JudgeFailure(StageFailure):
    """The judging process does not even start."""


class Judge:
    """Judges answers in ``workers`` processes, which start with the first answer and live until ``close``.

    ``root`` is the directory of the problems, where a judge that needs more than the right answer finds it.
    A process that dies under an answer is replaced and the answer judged again; the third death is its
    verdict. One that takes too long is killed: a reward of 0 where the judge had turned to what the answer
    itself does (``tasks.rewards.base.answer_begins``), else none.
    """

    def __init__(self, choice: Choice, workers: int = 1, root: Path | None = None) -> None:
        module = find_reward(choice.name, "task.reward.name")
        config: Bounds = choice.resolve(module.Config, "task.reward")
        self._pending: queue.SimpleQueue[tuple[str, str, Future[Verdict]] | None] = queue.SimpleQueue()
        self._closed = False
        self._threads = [
            threading.Thread(
                target=self._serve, args=(_Worker(choice.name, config, root),), daemon=True, name=f"judge-{i}"
            )
            for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def judge(
        self, pairs: Sequence[tuple[str, str]], tell: Callable[[int], None] = lambda done: None
    ) -> list[Verdict]:
        """A verdict for each (right answer, given answer), in their order; ``tell(done)`` after each."""
        futures = [self.submit(gold, answer) for gold, answer in pairs]
        verdicts = []
        for future in futures:
            verdicts.append(future.result())
            tell(len(verdicts))
        return verdicts

    def submit(self, gold: str, answer: str) -> Future[Verdict]:
        """Begin to judge one answer, while sampling goes on. Its result may raise ``JudgeFailure``."""
        if self._closed:
            raise RuntimeError("the judge is closed")
        future: Future[Verdict] = Future()
        self._pending.put((gold, answer, future))
        return future

    def close(self) -> None:
        """End the workers. Answers that nobody has judged yet are cancelled."""
        if self._closed:
            return
        self._closed = True
        while not self._pending.empty():
            item = self._pending.get()
            if item is not None:
                item[2].cancel()
        for _ in self._threads:
            self._pending.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self, worker: _Worker) -> None:
        """One thread: give its worker one answer after the other."""
        while (item := self._pending.get()) is not None:
            gold, answer, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(worker.judge(gold, answer))
            except JudgeFailure as error:
                future.set_exception(error)
        worker.kill()


class _Worker:
    """One judging process, replaced whenever it has died or had to be killed."""

    def __init__(self, name: str, config: Bounds, root: Path | None) -> None:
        self._command = [*_COMMAND, name, config.model_dump_json(), str(os.getpid())]
        self._command += [] if root is None else [str(root.resolve())]
        self._timeout = config.timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._read = b""

    def judge(self, gold: str, answer: str) -> Verdict:
        """One verdict; a worker that is silent for too long, or gone again and again, has failed."""
        request = json.dumps([gold, answer]).encode() + b"\n"
        ended = ""
        for _ in range(_TRIES):
            verdict = self._try(request)
            if verdict is not None:
                return verdict
            ended = self.kill()
        return Verdict(None, f"judge died ({ended})")

    def _try(self, request: bytes) -> Verdict | None:
        """The verdict of one process; None where it died."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        deadline = time.monotonic() + self._timeout
        begun = False
        try:
            reply = self._exchange(request, deadline)
            if reply is not None and "begun" in reply:
                begun = True
                reply = self._exchange(b"", deadline)
        except TimeoutError:
            self.kill()
            return Verdict(0.0 if begun else None, f"timed out after {self._timeout:g} s")
        if reply is None:
            with suppress(subprocess.TimeoutExpired):  # it has let go of its output, and ends in a moment
                self._process.wait(1.0)
            return None
        if reply["last"]:
            self.kill()
        return Verdict(reply["reward"], reply["error"])

    def kill(self) -> str:
        """End the process, if there is one, and say how it ended."""
        process, self._process = self._process, None
        if process is None:
            return "not running"
        process.kill()
        process.communicate()
        return (
            f"exit code {process.returncode}" if process.returncode >= 0 else f"signal {-process.returncode}"
        )

    def _start(self) -> None:
        """A fresh process, ready. One that is killed from outside while it starts is started again."""
        for _ in range(_TRIES):
            self.kill()
            self._read = b""
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": _search_path(), "OMP_NUM_THREADS": "1"},
            )
            try:
                if self._exchange(b"", time.monotonic() + _START_SECONDS) is not None:
                    return
            except TimeoutError:
                self.kill()
                raise JudgeFailure(f"the judge does not start within {_START_SECONDS:g} s") from None
            process, self._process = self._process, None
            errors = process.communicate()[1].decode(errors="replace").strip()
            if process.returncode >= 0:
                break
        reason = errors.splitlines()[-1] if errors else "no reason given"
        raise JudgeFailure(f"the judge does not start: {reason}")

    def _exchange(self, request: bytes, deadline: float) -> dict[str, Any] | None:
        """Send a line and read one; None where the process is gone. Raises ``TimeoutError``."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        while b"\n" not in self._read:
            if not poll.poll(max(deadline - time.monotonic(), 0.0) * 1000):
                raise TimeoutError
            piece = os.read(self._process.stdout.fileno(), 65536)
            if not piece:
                return None
            self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        return dict(json.loads(line))


def _search_path() -> str:
    return os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
