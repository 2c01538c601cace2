"""Serve Prefect's API until no run uses it: ``python -m flows.process.keeper SOCKET ALIVE USERS``."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import threading
import time
from pathlib import Path

import uvicorn

LOOK_SECONDS = 0.2
END_SECONDS = 2.0
"""For the server to write what it still holds in memory."""


def _end_with_the_last_user(server: uvicorn.Server, users: Path) -> None:
    with users.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(LOOK_SECONDS)
                continue
            break  # from here on a new run waits until this process is gone
        server.should_exit = True
        time.sleep(END_SECONDS)
        os._exit(0)


def main() -> None:
    """Serve on an inherited socket; the descriptor of ``alive`` is only held."""
    listener, _, users = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    config = uvicorn.Config(
        "prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on"
    )
    server = uvicorn.Server(config)
    threading.Thread(target=_end_with_the_last_user, args=(server, users), daemon=True).start()
    server.run(sockets=[socket.socket(fileno=listener)])


if __name__ == "__main__":
    main()
