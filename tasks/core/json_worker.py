"""The worker's side of ``tasks.core.json_process``: JSON lines in and out, to the process that started it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.core.parent_death import die_with


class Parent:
    """The process that started this one, which ends with it.

    Messages go out on a private copy of standard output: what libraries print goes to standard error.
    """

    def __init__(self, pid: int) -> None:
        die_with(pid)
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def send(self, message: Mapping[str, Any]) -> None:
        """One message."""
        self._out.write(json.dumps(message) + "\n")

    def __iter__(self) -> Iterator[Any]:
        """The messages that come in, until the parent sends no more."""
        return map(json.loads, sys.stdin)
