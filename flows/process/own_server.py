"""The Prefect server of a workspace: the first run that needs one starts it, those beside it share it.

Three files in Prefect's home agree on it. Every run holds ``users`` in common with the others, and the server
ends once nobody does; the server holds ``alive``; ``address`` says where it listens. The locks are the
operating system's: they end with a process however it ends, so no server outlives its runs, and a dead
server is noticed by the runs, which start another at the same address.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from flows.process.interrupts import KEEPER
from params.errors import OstinatoError
from tasks.artefacts.artefact import replace_file
from tasks.core.json_process import environment

START_SECONDS = 120.0
"""For a server to answer; it takes some 10 on two idle cores."""
WATCH_SECONDS = 0.5
STARTS = 2
"""After which one that has not answered yet is given up: it ends by itself."""


class NoServer(OstinatoError):
    """The workspace's own server did not come up."""


class OwnServer:
    """This process's share in the server under ``home``; there is one for as long as the process lives."""

    def __init__(self, home: Path) -> None:
        """Join the server, or start it; it may not answer yet: see ``await_answer``. Raises ``NoServer``."""
        self._folder = home / "server"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._users = (self._folder / "users").open("a")
        self._started = 0
        fcntl.flock(self._users, fcntl.LOCK_SH)  # waits for a server that is just ending
        try:
            self.address = self._ensure(0)
        except OSError as error:
            raise NoServer(f"Prefect's server could not be started: {error}") from None
        threading.Thread(target=self._watch, daemon=True, name="prefect server").start()

    @property
    def log(self) -> Path:
        """What the server printed."""
        return self._folder / "server.log"

    def await_answer(self) -> None:
        """Return once the server answers; raises ``NoServer``."""
        health, deadline = f"{self.address}/health", time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(health, timeout=10) as reply:  # noqa: S310 - http
                if reply.status == 200:
                    return
            if self._started > STARTS:
                last = self.log.read_text(errors="replace").split("\n")[-2:]
                said = "; ".join(line.strip() for line in last if line.strip()) or "it said nothing"
                raise NoServer(f"Prefect's server ends before it answers: {said} (log: {self.log})")
            time.sleep(0.05)
        raise NoServer(f"Prefect's server did not answer within {START_SECONDS:g} s (log: {self.log})")

    def _watch(self) -> None:
        port = int(self.address.split(":")[2].removesuffix("/api"))
        while self._folder.is_dir():  # else the workspace is gone
            time.sleep(WATCH_SECONDS)
            with suppress(OSError):  # no process, no file, the port is taken: the next look may find one
                self._ensure(port)

    def _ensure(self, port: int) -> str:
        """The address of a server that lives: where there is none, of one that is started now at ``port``."""
        with _locked(self._folder / "start"), (self._folder / "alive").open("a") as alive:
            try:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return str(json.loads((self._folder / "address").read_text())["api"])
            return self._start(port, alive)

    def _start(self, port: int, alive: IO[str]) -> str:
        """Start the server; it inherits ``alive`` with its lock, and a socket that already listens, so that
        whoever calls too early waits instead of failing."""
        listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        inherited = (listener.fileno(), alive.fileno())
        with listener, self.log.open("a") as log:
            # before anybody can find it alive: who is killed in between leaves no server without an address
            replace_file(self._folder / "address", json.dumps({"api": address}))
            self._process = subprocess.Popen(
                [sys.executable, "-m", KEEPER, *map(str, inherited), str(self._users.name)],
                env=environment(PREFECT_UI_ENABLED="0", PREFECT__SERVER_EPHEMERAL="1"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=inherited,
                start_new_session=True,  # a terminal's interrupt is for the run alone
            )
        self._started += 1
        return address


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def own_server() -> OwnServer | None:
    """Share in the workspace's server, to which Prefect is pointed; None where a person has named another."""
    if "PREFECT_API_URL" in os.environ:
        return None
    home = Path(os.environ["PREFECT_HOME"])
    with suppress(FileNotFoundError):
        profiles = tomllib.loads((home / "profiles.toml").read_text())
        if "PREFECT_API_URL" in profiles["profiles"].get(profiles.get("active"), {}):
            return None
    server = OwnServer(home)
    os.environ["PREFECT_API_URL"] = server.address
    return server
