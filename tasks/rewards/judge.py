"""Judging in processes that can be killed: an answer that hangs, crashes or eats memory harms no other.

Each worker is a child process (``tasks.rewards.worker``); a pool of as many threads here feeds them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from params.base import Choice
from tasks.core.errors import StageFailure
from tasks.core.json_process import JsonProcess, ProcessFailure, environment
from tasks.rewards.base import Bounds, Verdict
from tasks.rewards.contract import find_reward

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
        config: Any = choice.resolve(module.Config, "task.reward")
        self._closed = False
        self._idle = [_Worker(choice.name, config, root) for _ in range(workers)]
        self._pool = ThreadPoolExecutor(workers, "judge")

    def judge(
        self,
        pairs: Sequence[tuple[str, str]],
        tell: Callable[[int], None] = lambda done: None,
        explain: bool = False,
    ) -> list[Verdict]:
        """A verdict for each (right answer, given answer), in their order; ``tell(done)`` after each."""
        futures = [self.submit(gold, answer, explain) for gold, answer in pairs]
        verdicts = []
        for future in futures:
            verdicts.append(future.result())
            tell(len(verdicts))
        return verdicts

    def submit(self, gold: str, answer: str, explain: bool = False) -> Future[Verdict]:
        """Begin to judge one answer, while sampling goes on. Its result may raise ``JudgeFailure``."""
        if self._closed:
            raise RuntimeError("the judge is closed")
        return self._pool.submit(self._judge, gold, answer, explain)

    def close(self) -> None:
        """End the workers. Answers that nobody has judged yet are cancelled."""
        self._closed = True
        self._pool.shutdown(cancel_futures=True)
        for worker in self._idle:
            worker.close()

    def _judge(self, gold: str, answer: str, explain: bool) -> Verdict:
        worker = self._idle.pop()
        try:
            return worker.judge(gold, answer, explain)
        finally:
            self._idle.append(worker)


class _Worker:
    """One judging process, replaced whenever it has died or had to be killed."""

    def __init__(self, name: str, config: Bounds, root: Path | None) -> None:
        self._command = [*_COMMAND, name, config.model_dump_json(), str(os.getpid())]
        self._command += [] if root is None else [str(root.resolve())]
        self._timeout = config.timeout_seconds
        self._process: JsonProcess | None = None

    def judge(self, gold: str, answer: str, explain: bool) -> Verdict:
        """One verdict; a worker that is silent for too long, or gone again and again, has failed."""
        ended = ""
        for _ in range(_TRIES):
            process = self._running()
            deadline = time.monotonic() + self._timeout
            begun = False
            try:
                process.send([gold, answer, explain], self._timeout)
                reply = process.receive(deadline - time.monotonic())
                if "begun" in reply:
                    begun = True
                    reply = process.receive(deadline - time.monotonic())
            except ProcessFailure as failure:
                self.close()
                if failure.code is None:
                    return Verdict(0.0 if begun else None, f"timed out after {self._timeout:g} s")
                ended = failure.ended
                continue
            if reply["last"]:
                self.close()
            return Verdict(reply["reward"], reply["error"], reply.get("explained"))
        return Verdict(None, f"judge died ({ended})")

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.close(0.0)

    def _running(self) -> JsonProcess:
        """The process, ready. One that is killed from outside while it starts is started again."""
        if self._process is not None and self._process.alive:
            return self._process
        for _ in range(_TRIES):
            self.close()
            self._process = JsonProcess("judge", self._command, environment(OMP_NUM_THREADS="1"))
            try:
                self._process.receive(_START_SECONDS)
            except ProcessFailure as failure:
                self.close()
                if failure.code is None:
                    raise JudgeFailure(f"the judge does not start within {_START_SECONDS:g} s") from None
                reason = failure.last_words or "no reason given"
                if failure.code >= 0:
                    break
            else:
                return self._process
        raise JudgeFailure(f"the judge does not start: {reason}")
