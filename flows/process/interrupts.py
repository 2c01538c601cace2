"""Ctrl-C and a scheduler's SIGTERM: one line, within seconds, whatever the program is at, and nothing left.

Everything on disk is whole or absent, so that ending at any moment loses no more than the stage in work.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from flows.environment import under_dvc
from flows.process import output
from tasks.core import json_process

EXIT_CODE = 130
"""By the shell's convention for an interrupt."""
GRACE_SECONDS = 3.0
"""For stages to unwind and for Prefect to hear of it; then the process ends all the same."""
AGAIN_SECONDS = 0.2
"""Between two times that processes are ended."""
RESUMED = ("run", "lab", "compare", "evaluate", "stage", "what-if", "rescore")
"""Commands that go on where they were ended."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
KEEPER = "flows.process.keeper"
"""The workspace's Prefect server."""

_received = threading.Event()


@contextmanager
def heard() -> Iterator[None]:
    """Inside the block the first signal raises ``KeyboardInterrupt`` here and ends every process that this
    one talks to; the second one, or ``GRACE_SECONDS``, end it at once. Only in the main thread."""
    before = {number: signal.signal(number, _hear) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def unwound() -> Iterator[None]:
    """Inside the block somebody else, such as Prefect, hears signals and raises in the main thread; a SIGTERM
    then also ends every process that this one talks to, until the block is left: nothing waits for an answer,
    and whoever asks again gets none. Only in the main thread."""
    over = threading.Event()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def end_processes() -> None:
        while told := ours.recv(64):
            while signal.SIGTERM in told and not over.wait(AGAIN_SECONDS):
                json_process.kill_all()

    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=end_processes, daemon=True, name="signals").start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        theirs.close()


def left_to_library() -> None:
    """From here on signals do what they do in any Python program: for servers that end in their own way."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end() -> None:
    """Say so and leave now, with every process below this one; to be called once the stages are unwound."""
    if _received.is_set():
        _end()


def line() -> str:
    """What a person is told."""
    if sys.argv[1:2] and sys.argv[1] not in RESUMED:
        return "ostinato: interrupted"
    again = "dvc repro" if under_dvc() else "the same command"
    return f"ostinato: interrupted; {again} goes on from the last finished stage"


def _hear(number: int, frame: FrameType | None) -> None:
    if _received.is_set():
        _end()
    _received.set()
    patience = threading.Timer(GRACE_SECONDS, _end)
    patience.daemon = True
    patience.start()
    json_process.kill_all()
    raise KeyboardInterrupt


def _end() -> None:
    output.restore()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if KEEPER not in process.cmdline():  # other runs may use it; it ends by itself
                process.kill()
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h")  # a live table hides the cursor
    os.write(2, f"{line()}\n".encode())
    os._exit(EXIT_CODE)
