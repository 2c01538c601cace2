"""Talking to a process that answers, stays silent, dies or does not listen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.engines.base import EngineFailure
from tasks.engines.json_process import Child, last_words

ECHO = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"ok": json.loads(line)}), flush=True)
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[list[Child]]:
    """Children to close afterwards."""
    started: list[Child] = []
    yield started
    for each in started:
        each.close()


def start(started: list[Child], code: str, log: Path) -> Child:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    started.append(Child("echo", command, dict(os.environ), log / "log"))
    return started[-1]


def test_messages_go_there_and_back(child: list[Child], tmp_path: Path) -> None:
    echo = start(child, ECHO, tmp_path)
    long = {"numbers": list(range(100_000))}
    for message in ({"a": 1}, long, {"text": "ä\n"}):
        echo.send(message, 20.0)
        assert echo.receive(20.0) == {"ok": message}
    assert echo.alive


def test_silence_ends_after_the_time_given(child: list[Child], tmp_path: Path) -> None:
    mute = start(child, "import time; time.sleep(600)", tmp_path)
    began = time.monotonic()
    with pytest.raises(EngineFailure, match=r"echo: gave no sign of life for 0\.3 s"):
        mute.receive(0.3)
    assert time.monotonic() - began < 5.0
    with pytest.raises(EngineFailure, match="ended with signal 9"):
        mute.receive(5.0)


def test_a_child_that_does_not_read_is_not_waited_for(child: list[Child], tmp_path: Path) -> None:
    deaf = start(child, "import time; time.sleep(600)", tmp_path)
    with pytest.raises(EngineFailure, match=r"took no message for 0\.3 s"):
        deaf.send({"numbers": list(range(100_000))}, 0.3)


def test_a_death_is_told_with_the_last_words_of_the_log(child: list[Child], tmp_path: Path) -> None:
    code = "import sys; sys.stdin.readline(); raise ValueError('no such weights')"
    dying = start(child, code, tmp_path)
    dying.send({"do": "open"}, 20.0)
    with pytest.raises(EngineFailure) as caught:
        dying.receive(20.0)
    assert "exit code 1: ValueError: no such weights (log: " in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(EngineFailure):
        dying.receive(20.0)


def test_last_words_are_the_last_exception_in_one_line() -> None:
    assert last_words("") == ""
    assert last_words("INFO loading\nINFO loaded\n\n") == "INFO loaded"
    long = "KeyError: 'a'\nlib.errors.ValidationError: 1 error\n  Value error, too long\n" + 900 * "see\n"
    words = last_words("Traceback\n" + long)
    assert words.startswith("lib.errors.ValidationError: 1 error Value error, too long see see")
    assert len(words) == 300


def test_a_killed_child_is_noticed_when_it_is_written_to(child: list[Child], tmp_path: Path) -> None:
    echo = start(child, ECHO, tmp_path)
    os.kill(echo.pid, signal.SIGKILL)
    with pytest.raises(EngineFailure, match="ended with signal 9"):
        echo.send({"numbers": list(range(100_000))}, 5.0)
    assert not echo.alive


def test_the_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = f"""
        import os, sys, time
        from pathlib import Path
        from tasks.engines.json_process import Child
        inner = "import sys, time, tasks.core.parent_death as p; p.die_with(int(sys.argv[1])); time.sleep(60)"
        command = [sys.executable, "-c", inner, str(os.getpid())]
        child = Child("inner", command, dict(os.environ), Path({str(tmp_path / "log")!r}))
        time.sleep(1.0)
        print(child.pid, flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5.0
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()
    parent.stdout.close()
