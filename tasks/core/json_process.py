"""A process that is talked to in JSON lines. Every wait can end; a failure is told with the log's last words.

The other side is ``tasks.core.json_worker``.
"""

from __future__ import annotations

import json
import math
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from params.errors import OstinatoError

CLOSE_SECONDS = 5.0
"""For a process to end by itself once its input or its output has ended."""
KILL_SECONDS = 60.0
"""On a busy machine the memory of a killed process takes its time to be given back."""
TAIL_BYTES = 1 << 18
LAST_WORDS = 300
EXCEPTION = re.compile(r"(\[rank\d+\]: )?[\w.]+(Error|Exception|Interrupt|Exit)\b")
ROOT = Path(__file__).parents[2]
Popen = subprocess.Popen[bytes]


_living: set[JsonProcess] = set()
"""Those that run, or are about to; each as long as its thread."""


class ProcessFailure(OstinatoError):
    """A process ended, or did not answer and was killed for it. One line, with what it printed last."""

    def __init__(self, text: str, code: int | None, last_words: str) -> None:
        super().__init__(text)
        self.code = code
        """Its exit code, or minus the signal that ended it; ``None`` where it did not answer."""
        self.last_words = last_words

    @property
    def ended(self) -> str:
        """``exit code N``, ``signal N``, or ``no answer``."""
        return "no answer" if self.code is None else ending(self.code)


class JsonProcess:
    """One process, and whatever it starts. Its standard output is messages alone; after a failure it is dead.

    A thread of its own starts the process and lives as long: a child may die with the thread that started
    it. Messages are sent and received by one thread at a time.
    """

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path | None = None
    ) -> None:
        """``log``: where its standard error is appended; ``None``: kept only as last words."""
        self._name, self._log = name, log
        self._process: Popen | None = None
        self._unwanted = False
        self._last_words = ""
        self._received = bytearray()
        errors: IO[bytes] = TemporaryFile() if log is None else log.open("a+b")  # noqa: SIM115 - the thread's
        start = partial(
            Popen,
            list(command),
            env=dict(env),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            process_group=0,  # an interrupt is for us; a session would be scheduled apart
        )
        started: Future[Popen] = Future()
        self._keeper = threading.Thread(
            target=self._keep, args=(start, started, errors), daemon=True, name=name
        )
        _living.add(self)
        self._keeper.start()
        process = started.result()
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        self._readable, self._either = select.poll(), select.poll()
        self._readable.register(self._stdout, select.POLLIN)
        self._either.register(self._stdout, select.POLLIN)
        self._either.register(self._stdin, select.POLLOUT)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process is not None and self._process.returncode is None

    def send(self, message: Any, seconds: float = math.inf) -> None:
        """Write one message; raises ``ProcessFailure`` where it is not taken within ``seconds``.

        What the process says meanwhile is read and kept for ``receive``: it may have to say it all before it
        listens.
        """
        rest = memoryview(json.dumps(message).encode() + b"\n")
        deadline = time.monotonic() + seconds
        while rest:
            try:
                rest = rest[os.write(self._stdin.fileno(), rest) :]
            except BlockingIOError:
                found = self._either.poll(_left(deadline))
                if not found:
                    raise self._unanswered(f"took no message for {seconds:g} s") from None
                if self._stdout.fileno() in dict(found) and not self._read():
                    raise self.death() from None
            except BrokenPipeError:
                raise self.death() from None

    def ready(self, seconds: float) -> bool:
        """Whether ``receive`` has something to say within ``seconds``: a message, or how it ended."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._received:
            if not self._readable.poll(_left(deadline)):
                return False
            if not self._read():
                return True
        return True

    def receive(self, seconds: float = math.inf) -> Any:
        """The next message; raises ``ProcessFailure`` where none comes in ``seconds`` or the process ends."""
        deadline, searched = time.monotonic() + seconds, 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if not self._readable.poll(_left(deadline)):
                raise self._unanswered(f"gave no sign of life for {seconds:g} s")
            if not self._read():
                raise self.death()
        line = self._received[:end]
        del self._received[: end + 1]
        try:
            return json.loads(line)
        except ValueError:
            raise self._unanswered(f"said {bytes(line[:40])!r}, which is not JSON") from None

    def kill(self) -> None:
        """End it now, with all that it started; whoever waits for its message hears of it."""
        self.end()
        self._keeper.join(KILL_SECONDS)

    def end(self) -> None:
        """End it as ``kill`` does, and wait for nothing: one that is just being started ends once it is."""
        self._unwanted = True
        if self.alive:
            _kill_group(self.pid)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """End its input, give it ``seconds`` to end by itself, and kill what is left. Nothing is asked of it
        afterwards."""
        self._stdin.close()
        self._keeper.join(seconds)
        self.kill()
        self._stdout.close()

    def death(self) -> ProcessFailure:
        """How it ended, as an error; it is given a moment to, where it has let go of a pipe."""
        self._keeper.join(CLOSE_SECONDS)
        self.kill()
        code = self._process.returncode if self._process else None
        code = -signal.SIGKILL if code is None else code
        return self._failure(f"ended with {ending(code)}", code)

    def _keep(self, start: Callable[[], Popen], started: Future[Popen], errors: IO[bytes]) -> None:
        try:
            with errors:
                before = errors.seek(0, os.SEEK_END)
                try:
                    process = self._process = start()
                except OSError as error:
                    started.set_exception(error)
                    return
                if self._unwanted:
                    _kill_group(process.pid)
                started.set_result(process)
                with suppress(ChildProcessError):  # nobody may wait where SIGCHLD is ignored
                    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                _kill_group(process.pid)  # what it has left behind, while its number is still its own
                process.wait()
                errors.seek(max(before, errors.seek(0, os.SEEK_END) - TAIL_BYTES))
                self._last_words = last_words(errors.read().decode(errors="replace"))
        finally:
            _living.discard(self)

    def _read(self) -> bool:
        """Keep a piece of what it says, which is there to read; whether its output goes on."""
        piece = os.read(self._stdout.fileno(), 1 << 16)
        self._received += piece
        return bool(piece)

    def _unanswered(self, what: str) -> ProcessFailure:
        self.kill()
        return self._failure(what, None)

    def _failure(self, what: str, code: int | None) -> ProcessFailure:
        words = f": {self._last_words}" if self._last_words else ""
        place = f" (log: {self._log})" if self._log else ""
        return ProcessFailure(f"{self._name}: {what}{words}{place}", code, self._last_words)


def kill_all() -> None:
    """End every process that this one talks to, now."""
    for process in _living.copy():  # other threads start some meanwhile
        process.end()


def ending(code: int) -> str:
    """How a process ended, by what ``subprocess`` says of it: ``exit code N`` or ``signal N``."""
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def last_words(log: str) -> str:
    """The last exception in a log, or its last line, as one line of bearable length."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [place for place, line in enumerate(lines) if EXCEPTION.match(line)]
    last = lines[errors[-1] :] if errors else lines[-1:]
    return " ".join(last)[:LAST_WORDS]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, in which our modules are found from anywhere, and ``more``."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **more}


def _left(deadline: float) -> float | None:
    """Milliseconds, as ``poll`` takes them."""
    return None if deadline == math.inf else 1000 * max(0.0, deadline - time.monotonic())


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody is left in it
        os.killpg(leader, signal.SIGKILL)
