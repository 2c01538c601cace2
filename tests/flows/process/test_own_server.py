"""The server that runs of a workspace share: one for all, for as long as any of them lives."""

from __future__ import annotations

import errno
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.process import own_server
from flows.process.own_server import NoServer, OwnServer
from tasks.artefacts.record import Record
from tests.flows.conftest import NANO, Workspace, events

PATIENCE = 60.0
Servers = Callable[[Workspace], list[psutil.Process]]


def _until_gone(workspace: Workspace, servers: Servers) -> None:
    end = time.monotonic() + PATIENCE
    while servers(workspace):
        assert time.monotonic() < end, "the server outlives its runs"
        time.sleep(0.1)


def test_a_server_that_the_system_refuses_for_a_moment_is_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address stands there before it is alive, so that nobody finds it without one."""
    told: list[str] = []
    refused = [True, False, True, True]  # the first by itself, then inside the watch

    def start(*_: object, **__: object) -> None:
        told.append(json.loads((tmp_path / "server" / "address").read_text())["api"])
        if refused and refused.pop(0):
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(own_server, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr("subprocess.Popen", start)
    with pytest.raises(NoServer, match=r"could not be started: .*Cannot allocate memory"):
        OwnServer(tmp_path)
    server = OwnServer(tmp_path)
    end = time.monotonic() + PATIENCE
    while len(told) < 6:
        assert time.monotonic() < end, "nobody looks after the server any more"
        time.sleep(0.01)
    (tmp_path / "server").rename(tmp_path / "gone")
    for thread in threading.enumerate():
        if thread.name == "prefect server":
            thread.join(PATIENCE)
            assert not thread.is_alive(), "it looks after a workspace that is gone"
    assert set(told[1:]) == {server.address}


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.ci)])
def test_runs_started_together_in_a_fresh_workspace_say_nothing_but_their_own(
    alone: Workspace, prefect_of: Servers, count: int
) -> None:
    names = [f"run-{number}" for number in range(count)]
    short = ["--set", "rounds=1", "--set", "model.warm_start_steps=4"]
    processes = [
        alone.start("run", "--name", name, *NANO, *short, "--set", f"seed={number}")
        for number, name in enumerate(names)
    ]
    while not prefect_of(alone):
        time.sleep(0.05)
    said = [process.communicate(timeout=250) for process in processes]
    for name, process, (out, err) in zip(names, processes, said, strict=True):
        assert (process.returncode, err) == (0, "")
        assert [line.split()[0] for line in out.splitlines()] == [f"{name}:", "Held-out", "Report:"]
        assert Record.read(alone.root / "runs" / name).finished
    log = (alone.root / ".ostinato" / "prefect" / "server" / "server.log").read_text()
    assert "alembic" not in log
    _until_gone(alone, prefect_of)


@pytest.mark.long
@pytest.mark.ci
def test_a_server_that_dies_is_started_again_and_dies_with_a_killed_run(
    alone: Workspace, prefect_of: Servers
) -> None:
    process = alone.start("run", "--name", "it", "--json", *NANO)
    assert process.stdout is not None
    for line in process.stdout:
        said = events(line)
        if said and said[0]["event"] == "begin":
            if said[0]["stage"] == "rollout":
                break
            if said[0]["stage"] == "model":
                (first,) = prefect_of(alone)
                first.kill()
    assert process.poll() is None, "the run ended with its server"
    (second,) = prefect_of(alone)
    assert second.pid != first.pid
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _until_gone(alone, prefect_of)


@pytest.mark.long
@pytest.mark.ci
def test_a_server_that_cannot_start_is_given_up_and_says_why(alone: Workspace, prefect_of: Servers) -> None:
    alone.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = "none://"
    alone.environment.pop("PREFECT_API_DATABASE_CONNECTION_URL", None)
    process = alone.start("run", "--name", "it", *NANO)
    _, err = process.communicate(timeout=100)  # before it would be waited for in vain
    assert process.returncode == 1
    assert err.startswith("ostinato: Prefect's server ends before it answers: ")
    assert err.count("\n") == 1
    assert "sqlalchemy.dialects:none" in err
    _until_gone(alone, prefect_of)
