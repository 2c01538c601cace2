"""One Prefect server for the session, and workspaces in which the command line runs as a person runs it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import cli

ROOT = Path(__file__).parents[2]
NANO = [
    *("--model", "nano", "--engine", "transformers"),
    *("--set", "model.warm_start_steps=40"),
    *("--set", "rounds=2"),
    *("--set", "threads=1"),
    *("--set", "task.train_count=64"),
    *("--set", "task.held_out_count=8"),
    *("--set", "rollout.problems_per_round=4"),
    *("--set", "rollout.samples_per_problem=4"),
    *("--set", "rollout.max_response_tokens=12"),
    *("--set", "evaluate.bootstrap_samples=50"),
]
"""A whole run in seconds."""


@dataclass
class Workspace:
    """A directory in which ``ostinato`` runs."""

    root: Path
    environment: dict[str, str]

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        """Start a command in a session of its own, so that its whole tree can be killed."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **more,
        )

    def call(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and check its exit code."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=280)
        assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(arguments, code, out, err)

    def run(self, *more: str) -> list[dict[str, Any]]:
        """A nano run called ``it``; its events."""
        return events(self.call("run", "--name", "it", "--json", *NANO, *more).stdout)

    def policy(self) -> dict[str, bytes]:
        """The files of the last policy, without the manifest, whose timings differ from run to run."""
        folder = self.root / "runs" / "it" / "round-02" / "update"
        files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "manifest.json")
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def events(text: str) -> list[dict[str, Any]]:
    """The JSON lines of ``--json``."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def outcomes(said: list[dict[str, Any]]) -> dict[str, str]:
    """Which stages were made and which cached, by place."""
    return {e["place"]: e["outcome"] for e in said if e["event"] == "stage"}


def kill_inside(process: subprocess.Popen[str], stage: str, delay: float) -> None:
    """SIGKILL a run with ``--json`` and its whole tree, ``delay`` seconds after that stage began."""
    assert process.stdout is not None
    for line in process.stdout:
        said = events(line)
        if said and said[0]["event"] == "begin" and said[0]["stage"] == stage:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=delay)
            break
    kill_tree(process)


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL a process and everything that descends from it, at once."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        try:
            os.kill(member.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[list[str], str], None]:
    """``refused(arguments, said)``: the command ends with exit code 2 and one line that holds ``said``, and
    leaves nothing behind.
    """

    def check(arguments: list[str], said: str) -> None:
        monkeypatch.setenv("OSTINATO_HOME", str(tmp_path))
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        err = capfd.readouterr().err
        assert stopped.value.code == 2
        assert said in err
        assert len(err.strip().splitlines()) == 1
        assert err.startswith("ostinato: ")
        assert not list(tmp_path.iterdir())

    return check


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real server on a free port of 127.0.0.1; what points Prefect at it.

    On PostgreSQL where ``OSTINATO_TEST_POSTGRES`` has the start of a database's address.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        "DO_NOT_TRACK": "1",
    }
    if databases := os.environ.get("OSTINATO_TEST_POSTGRES"):
        own = os.environ.get("PYTEST_XDIST_WORKER", "master")
        environment["PREFECT_API_DATABASE_CONNECTION_URL"] = databases + own
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            command,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            text=True,
            preexec_fn=_die_with_the_tests,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/health", server)
        yield {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    finally:
        kill_tree(server)


def _die_with_the_tests() -> None:
    """In the server, before it is one: whatever kills the tests ends it too (Linux's PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _wait_for(address: str, server: subprocess.Popen[str], patience: float = 120) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            assert server.poll() is None, "the Prefect server died"
            assert time.monotonic() < end, "the Prefect server did not come up"
            time.sleep(0.2)


def environment_of(root: Path, server: dict[str, str]) -> dict[str, str]:
    """A clean environment for a workspace: one thread, this source, that server."""
    return {
        **os.environ,
        **server,
        "OSTINATO_HOME": str(root),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, prefect_server: dict[str, str]) -> Workspace:
    """A workspace with a finished run. Read it; change only copies (``copied``)."""
    root = tmp_path_factory.mktemp("finished")
    made = Workspace(root, environment_of(root, prefect_server))
    made.run()
    return made


@pytest.fixture
def copied(finished: Workspace, tmp_path: Path, prefect_server: dict[str, str]) -> Workspace:
    """A copy of the finished workspace that may be harmed."""
    root = tmp_path / "copied \u00e4"  # as people name folders
    shutil.copytree(finished.root, root)
    return Workspace(root, environment_of(root, prefect_server))


@pytest.fixture
def prepared(finished: Workspace, tmp_path: Path, prefect_server: dict[str, str]) -> Workspace:
    """A workspace that has the base model and the problems, and nothing else."""
    root = tmp_path / "prepared \u00e4"
    for name in ("model", "problems"):
        for path in (finished.root / "artefacts").glob(f"{name}-*"):
            shutil.copytree(path, root / "artefacts" / path.name)
    return Workspace(root, environment_of(root, prefect_server))


@pytest.fixture
def empty(tmp_path: Path, prefect_server: dict[str, str]) -> Workspace:
    """A workspace with nothing in it."""
    root = tmp_path / "empty \u00e4"
    root.mkdir()
    return Workspace(root, environment_of(root, prefect_server))
