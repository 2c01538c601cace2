"""A run that is stopped says one line and leaves nothing, whichever signal, engine and stage."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from flows.process import interrupts
from tests.flows.conftest import NANO, Workspace, events
from tests.flows.process.conftest import living

PATIENCE = 30.0
"""Seconds that a process gets to end. Where it waited for a server that was gone, it took 67 to 85."""
LINE = "ostinato: interrupted; the same command goes on from the last finished stage"
MADE_ANEW = {
    "problems": "seed=1",
    "model": "model.warm_start_steps=41",
    "evaluate": "evaluate.bootstrap_samples=51",
    "rollout": "rollout.temperature=0.9",
    "replay": "replay.max_age=3",
    "update": "update.learning_rate=1e-3",
}
"""Stages in their order, each with a setting for which it is made whatever the runs before it left."""
SHORT = ["--set", "rounds=1", "--set", "rollout.max_response_tokens=24"]


@pytest.fixture
def served(alone: Workspace) -> Iterator[Workspace]:
    """A workspace whose server already runs, so that runs begin at once."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom flows.process.own_server import OwnServer\n"
        f"OwnServer(Path({str(alone.root / '.ostinato/prefect')!r})).await_answer()\n"
        "print('up', flush=True)\nsys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        env=alone.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"up\n"
    yield alone
    holder.kill()
    holder.wait()


def _nothing_left(workspace: Workspace, but: list[psutil.Process]) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if not set(living(workspace)) - set(but):
            return True
        time.sleep(0.1)
    return False


def _begun(process: subprocess.Popen[str], stage: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if any(said["event"] == "begin" and said["stage"] == stage for said in events(line)):
            return
    raise AssertionError(f"{stage} never began: {process.communicate()}")


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", [pytest.param("transformers", marks=pytest.mark.ci), "vllm"])
def test_in_every_stage_either_signal_ends_the_run_in_one_line(served: Workspace, engine: str) -> None:
    if engine == "vllm":
        pytest.importorskip("vllm")
    before = living(served)
    for number, (stage, setting) in enumerate(MADE_ANEW.items()):
        command = ["run", "--name", "it", *NANO, *SHORT, "--engine", engine]
        process = served.start(*command, "--json", "--set", setting)
        _begun(process, stage)
        time.sleep(0.05)
        if number % 2:
            process.send_signal(signal.SIGTERM)
        else:  # as a terminal does: everybody in the group gets it
            os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert (err, process.returncode) == (f"{LINE}\n", 130), stage
        assert _nothing_left(served, before)
    served.call(*command)


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_under_a_terminal_the_table_ends_and_the_line_follows(
    served: Workspace, number: signal.Signals
) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "flows.cli", "run", "--name", "it", *NANO, *SHORT]
    process = subprocess.Popen(
        command,
        cwd=served.root,
        env=served.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    while b"model" not in shown.rpartition(b"stages")[0]:  # the bar shows the stage
        shown += os.read(ours, 4096)
    os.killpg(process.pid, number)
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # a terminal that nobody holds any more
        pass
    assert process.wait(timeout=PATIENCE) == 130
    assert shown.count(b"interrupted") == 1
    assert b"Traceback" not in shown
    assert shown.rstrip().endswith(LINE.encode())
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")  # the cursor is back


@pytest.mark.long
@pytest.mark.ci
def test_a_server_that_is_gone_holds_nobody_up(empty: Workspace) -> None:
    """Here it is a person's own server, which a run cannot start again."""
    code = (
        "import http.server\nclass Api(http.server.BaseHTTPRequestHandler):\n"
        "  def do_GET(self):\n    self.send_response(200); self.end_headers(); self.wfile.write(b'true')\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), Api)\n"
        "print(server.server_port, flush=True)\nserver.handle_request()"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    empty.environment["PREFECT_API_URL"] = f"http://127.0.0.1:{server.stdout.readline().strip()}/api"
    failed = empty.call("run", "--name", "it", *NANO, code=1)
    server.wait()
    assert "Prefect's server no longer answers" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


@pytest.mark.long
@pytest.mark.ci
def test_before_the_first_stage_it_is_the_same(alone: Workspace) -> None:
    for seconds in (0.0, 3.0):
        process = alone.start("run", "--name", "it", "--json", *NANO)
        while not (alone.root / ".ostinato" / "prefect").exists():
            time.sleep(0.01)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert (err, process.returncode) == (f"{LINE}\n", 130)
        assert _nothing_left(alone, [])


@pytest.mark.parametrize("command", ["run", "what-if", "rescore", "stage"])
def test_a_command_that_goes_on_where_it_ended_says_so(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr(sys, "argv", ["ostinato", command, "it"])
    assert interrupts.line().endswith("the same command goes on from the last finished stage")
    monkeypatch.setattr(sys, "argv", ["ostinato", "report", "it"])
    assert interrupts.line() == "ostinato: interrupted"
