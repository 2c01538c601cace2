"""``python -m tests.tasks.engines.server_process MODEL SHELF``: stub servers that can be killed or stopped.

For each line that it reads it starts one, in a process of its own, and prints ``PID ADDRESS``; at the end of
its input it ends them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import torch

from tests.tasks.engines.protocol_server import Server
from tests.tasks.rollout_rows import parameters


def main() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    model, shelf = map(Path, sys.argv[1:])
    started = []
    while sys.stdin.readline():
        child = os.fork()  # before there is any thread
        if child == 0:
            print(os.getpid(), Server(model, parameters(), shelf=shelf).address, flush=True)
            signal.pause()
        started.append(child)
    for child in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
