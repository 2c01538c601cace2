"""A process that is talked to in JSON lines. Every wait ends; a death is told with the log's last words."""

from __future__ import annotations

import json
import os
import queue
import re
import select
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.engines.base import EngineFailure

CLOSE_SECONDS = 5.0
KILL_SECONDS = 60.0
"""On a busy machine the memory of a killed process takes its time to be given back."""
LAST_WORDS = 300
EXCEPTION = re.compile(r"(\[rank\d+\]: )?[\w.]+(Error|Exception|Interrupt|Exit)\b")


class Child:
    """One child process. Its standard error goes to ``log``, its standard output is messages alone.

    The thread that reads its messages also starts it: a child may die with the thread that started it.
    """

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._name = name
        self._log = log
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._started: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, args=(list(command), dict(env)), daemon=True, name=name).start()
        self._process = self._started.get(timeout=60.0)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def send(self, message: Mapping[str, Any], seconds: float) -> None:
        """Write one message; raises ``EngineFailure`` where it is not taken within ``seconds``."""
        assert self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        rest = memoryview(json.dumps(message).encode() + b"\n")
        deadline = time.monotonic() + seconds
        os.set_blocking(pipe, False)
        while rest:
            if not select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))[1]:
                raise self._failure(f"took no message for {seconds:g} s")
            try:
                rest = rest[os.write(pipe, rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._death() from None

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next message; raises ``EngineFailure`` where none comes in ``seconds`` or the child died."""
        try:
            message = self._messages.get(timeout=seconds)
        except queue.Empty:
            raise self._failure(f"gave no sign of life for {seconds:g} s") from None
        if message is None:
            self._messages.put(None)
            raise self._death()
        return message

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(KILL_SECONDS)

    def _serve(self, command: list[str], env: dict[str, str]) -> None:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command, env=env, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        self._started.put(process)
        assert process.stdout is not None
        with os.fdopen(os.dup(process.stdout.fileno()), "rb") as lines:
            for line in lines:
                self._messages.put(json.loads(line))
        process.stdout.close()
        self._messages.put(None)
        process.wait()

    def _death(self) -> EngineFailure:
        code = self._process.wait(CLOSE_SECONDS)
        return self._failure(f"ended with {f'exit code {code}' if code >= 0 else f'signal {-code}'}")

    def _failure(self, what: str) -> EngineFailure:
        """Whatever failed, the child is not used again."""
        self._process.kill()
        words = last_words(self._log.read_text(errors="replace"))
        return EngineFailure(f"{self._name}: {what}{f': {words}' if words else ''} (log: {self._log})")


def last_words(log: str) -> str:
    """The last exception in a log, or its last line, as one line of bearable length."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [place for place, line in enumerate(lines) if EXCEPTION.match(line)]
    last = lines[errors[-1] :] if errors else lines[-1:]
    return " ".join(last)[:LAST_WORDS]
