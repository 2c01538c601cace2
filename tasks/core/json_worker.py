"""The worker's side of ``tasks.core.json_process``: JSON lines in and out, to the process that started it."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.core.parent_death import die_with


class Parent:
    """The process that started this one, which ends with it.

    Messages go out on a private copy of standard output: what libraries print goes to standard error.
    """

    def __init__(self, pid: int) -> None:
        die_with(pid)
        self._out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8", errors="replace")
        os.dup2(2, 1)
        self._received = bytearray()

    def send(self, message: Mapping[str, Any]) -> None:
        """One message; half a surrogate pair, which is no text, arrives as a question mark."""
        self._out.write(json.dumps(message, ensure_ascii=False) + "\n")

    def ready(self) -> bool:
        """Whether ``receive`` has something to say at once."""
        return b"\n" in self._received or bool(select.select([0], [], [], 0.0)[0])

    def receive(self) -> Any:
        """The next message; None where the parent sends no more."""
        while (end := self._received.find(b"\n")) < 0:
            piece = os.read(0, 1 << 16)
            if not piece:
                return None
            self._received += piece
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return json.loads(line)

    def __iter__(self) -> Iterator[Any]:
        """The messages that come in, until the parent sends no more."""
        return iter(self.receive, None)
