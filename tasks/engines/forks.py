"""Sampling on several cores of a CPU: processes forked for a call decode a part of its requests each.

Two threads of one process wait for each other at thousands of small operations, and for the interpreter. A
fork reads the weights where they lie, packed as they are, says what it has sampled and is gone. Two of them
take 40 ms to start and end where 0.8 GB are resident and 140 where 2.3 are: the table of pages is copied. As
workers of torch's data loaders do, a fork keeps to one thread, since OpenMP's others do not come with it.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from tasks.core.parent_death import die_with
from tasks.engines.base import EngineFailure, Response
from tasks.engines.decoding import Family

PROGRESS_SECONDS = 0.1
MOST = 4
"""Processes of a call: chosen, more than two have not been tried."""

Steps = Iterator[tuple[int, dict[int, Response]]]
"""How many tokens have been drawn since, and which responses are whole, by their indices."""


def split(families: Sequence[Family], count: int) -> list[list[Family]]:
    """``count`` parts of about as many requests; no more of the families are cut than have to be."""
    most = -(-sum(map(len, families)) // count)
    parts: list[list[Family]] = [[] for _ in range(count)]
    pieces = [family[at : at + most] for family in families for at in range(0, len(family), most)]
    for piece in sorted(pieces, key=len, reverse=True):
        min(parts, key=lambda part: sum(map(len, part))).append(piece)
    return [sorted(part) for part in parts if part]


def sampled(parts: Sequence[Callable[[], Steps]], processes: int, patience: float) -> Steps:
    """What all ``parts`` say, each in its order, by so many processes; with one, in this one.

    Raises ``EngineFailure`` where a part does, or where a process ends or says nothing for ``patience``
    seconds. Whatever happens, no process is left behind.
    """
    processes = min(processes, len(parts), MOST)
    if processes < 2 or sys.platform != "linux":
        for part in parts:
            yield from part()
        return
    children: list[_Child] = []
    try:
        for first in range(processes):
            children.append(_forked(parts[first::processes]))
        yield from _heard({child.connection: child for child in children}, patience)
    finally:
        for child in children:
            child.end()


@dataclass
class _Child:
    pid: int
    connection: Connection
    status: int | None = None
    """As ``os.waitpid`` has it, once it has been waited for."""

    def ended(self) -> int:
        """Wait for its end: its exit code, or the signal that ended it, negative."""
        if self.status is None:
            self.status = os.waitpid(self.pid, 0)[1]
        return os.waitstatus_to_exitcode(self.status)

    def end(self) -> None:
        self.connection.close()
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.ended()


def _forked(parts: Sequence[Callable[[], Steps]]) -> _Child:
    ours, its = Pipe(duplex=False)
    parent = os.getpid()
    with warnings.catch_warnings():  # Python 3.12 warns of a fork beside threads; this one needs none of them
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent decides what ends
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            die_with(parent)
            gc.disable()  # it would write to every page that the two have in common
            _say(its, parts)
            code = 0
        finally:  # whatever it was, it must not go on as the parent
            error = sys.exc_info()[1]
            if error is not None:
                known = isinstance(error, EngineFailure)
                text = str(error) if known else "".join(traceback.format_exception(error))
                with suppress(OSError):
                    its.send_bytes(json.dumps({"failed": text}).encode())
            os._exit(code)
    its.close()
    return _Child(pid, ours)


def _say(connection: Connection, parts: Sequence[Callable[[], Steps]]) -> None:
    """In a child: sample, and say what has come."""
    drawn, said = 0, time.monotonic()
    for part in parts:
        for tokens, done in part():
            drawn += tokens
            if done or time.monotonic() - said > PROGRESS_SECONDS:
                whole = {index: astuple(response) for index, response in done.items()}
                connection.send_bytes(json.dumps({"tokens": drawn, "whole": whole}).encode())
                drawn, said = 0, time.monotonic()


def _heard(children: dict[Any, _Child], patience: float) -> Steps:
    while children:
        ready = wait(list(children), patience)
        if not ready:
            raise EngineFailure(f"transformers: no token in {patience} s")
        for connection in ready:
            try:
                message = json.loads(children[connection].connection.recv_bytes())
            except (EOFError, OSError):  # the second in the middle of a message
                code = children.pop(connection).ended()
                if code:
                    raise EngineFailure(
                        f"transformers: a process that samples ended with exit code {code}"
                    ) from None
                continue
            if "failed" in message:
                raise EngineFailure(message["failed"])
            yield message["tokens"], {int(i): _response(each) for i, each in message["whole"].items()}


def _response(said: Sequence[Any]) -> Response:
    tokens, logp, reason, *more = said
    return Response(tuple(tokens), tuple(logp), reason, *map(tuple, more))
