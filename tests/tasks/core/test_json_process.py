"""Talking to a process that answers, stays silent, dies or does not listen."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.core import json_process
from tasks.core.json_process import JsonProcess, ProcessFailure, environment, last_words

ECHO = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"ok": json.loads(line)}), flush=True)
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[JsonProcess]]:
    """Processes to close afterwards."""
    made: list[JsonProcess] = []
    yield made
    for each in made:
        each.close()


def start(started: list[JsonProcess], code: str, log: Path | None = None) -> JsonProcess:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    started.append(JsonProcess("echo", command, environment(), log))
    return started[-1]


def test_messages_go_there_and_back(started: list[JsonProcess], tmp_path: Path) -> None:
    echo = start(started, ECHO, tmp_path / "log")
    long = {"numbers": list(range(100_000))}
    for message in ({"a": 1}, long, {"text": "ä\n"}):
        echo.send(message, 20.0)
        assert echo.receive(20.0) == {"ok": message}
    assert echo.alive


def test_silence_ends_after_the_time_given(started: list[JsonProcess], tmp_path: Path) -> None:
    mute = start(started, "import time; time.sleep(600)", tmp_path / "log")
    began = time.monotonic()
    with pytest.raises(ProcessFailure, match=r"echo: gave no sign of life for 0\.3 s") as caught:
        mute.receive(0.3)
    assert (caught.value.code, caught.value.ended) == (None, "no answer")
    assert time.monotonic() - began < 5.0
    with pytest.raises(ProcessFailure, match="ended with signal 9"):
        mute.receive(5.0)


def test_a_child_that_does_not_read_is_not_waited_for(started: list[JsonProcess], tmp_path: Path) -> None:
    deaf = start(started, "import time; time.sleep(600)", tmp_path / "log")
    with pytest.raises(ProcessFailure, match=r"took no message for 0\.3 s"):
        deaf.send({"numbers": list(range(100_000))}, 0.3)


def test_a_child_that_speaks_before_it_listens_is_heard_meanwhile(started: list[JsonProcess]) -> None:
    code = """
        import json, sys
        for index in range(20):
            print(json.dumps({"index": index, "ids": list(range(10_000))}), flush=True)
        print(json.dumps({"ok": len(json.loads(sys.stdin.readline())["numbers"])}), flush=True)
    """
    speaker = start(started, code)
    speaker.send({"numbers": list(range(100_000))}, 20.0)
    assert [speaker.receive(20.0)["index"] for _ in range(20)] == list(range(20))
    assert speaker.receive(20.0) == {"ok": 100_000}


def test_a_death_is_told_with_the_last_words_of_the_log(started: list[JsonProcess], tmp_path: Path) -> None:
    code = "import sys; sys.stdin.readline(); raise ValueError('no such weights')"
    dying = start(started, code, tmp_path / "log")
    dying.send({"do": "open"}, 20.0)
    with pytest.raises(ProcessFailure) as caught:
        dying.receive(20.0)
    assert "exit code 1: ValueError: no such weights (log: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (caught.value.code, caught.value.ended) == (1, "exit code 1")
    assert caught.value.last_words == "ValueError: no such weights"
    with pytest.raises(ProcessFailure):
        dying.receive(20.0)


def test_last_words_are_the_last_exception_in_one_line() -> None:
    assert last_words("") == ""
    assert last_words("INFO loading\nINFO loaded\n\n") == "INFO loaded"
    long = "KeyError: 'a'\nlib.errors.ValidationError: 1 error\n  Value error, too long\n" + 900 * "see\n"
    words = last_words("Traceback\n" + long)
    assert words.startswith("lib.errors.ValidationError: 1 error Value error, too long see see")
    assert len(words) == 300


def test_much_on_standard_error_blocks_nothing_and_ends_in_the_last_words(started: list[JsonProcess]) -> None:
    code = """
        import sys
        print("{}", flush=True)
        sys.stderr.write("noise " * 200_000 + "\\nRuntimeError: enough\\n")
        print("{}", flush=True)
        sys.exit(7)
    """
    loud = start(started, code)
    assert [loud.receive(20.0), loud.receive(20.0)] == [{}, {}]
    with pytest.raises(ProcessFailure) as caught:
        loud.receive(20.0)
    assert str(caught.value) == "echo: ended with exit code 7: RuntimeError: enough"


def test_words_of_an_earlier_process_in_the_same_log_are_not_the_last(
    started: list[JsonProcess], tmp_path: Path
) -> None:
    (tmp_path / "log").write_text("ValueError: long ago\n")
    silent = start(started, "raise SystemExit(3)", tmp_path / "log")
    with pytest.raises(ProcessFailure, match=r"^echo: ended with exit code 3 \(log: .*\)$"):
        silent.receive(20.0)


def test_a_process_that_closes_its_output_and_lives_on_is_ended(
    started: list[JsonProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_process, "CLOSE_SECONDS", 0.2)
    deaf = start(started, "import os, time; os.close(1); time.sleep(600)")
    with pytest.raises(ProcessFailure, match="ended with signal 9"):
        deaf.receive(20.0)


def test_what_is_not_json_is_a_failure(started: list[JsonProcess]) -> None:
    talker = start(started, "print('loading', flush=True); input()")
    with pytest.raises(ProcessFailure, match="said b'loading', which is not JSON"):
        talker.receive(20.0)
    assert not talker.alive


@pytest.mark.parametrize("way", ["close", "death"])
def test_what_a_process_started_ends_with_it(started: list[JsonProcess], way: str) -> None:
    code = """
        import json, subprocess, sys
        print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
        input()
    """
    leader = start(started, code)
    follower = psutil.Process(leader.receive(20.0))
    if way == "close":
        leader.close()
    else:
        os.kill(leader.pid, signal.SIGKILL)
    assert not psutil.wait_procs([follower], timeout=10)[1]


def test_a_command_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as refused:
        JsonProcess("nothing", [str(tmp_path / "nothing")], environment())
    json_process.kill_all()  # knows of it, and ends nothing
    assert refused.value.errno == errno.ENOENT


def test_a_process_that_is_just_being_started_is_ended_with_all_others(
    started: list[JsonProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, ended = threading.Event(), threading.Event()

    def popen(*command: object, **options: object) -> object:
        starts.set()
        assert ended.wait(20.0)
        return subprocess.Popen(*command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(json_process, "Popen", popen)
    thread = threading.Thread(target=start, args=(started, "import time; time.sleep(600)"))
    thread.start()
    assert starts.wait(20.0)
    try:
        json_process.kill_all()
    finally:
        ended.set()
        thread.join()
    with pytest.raises(ProcessFailure, match="ended with signal 9"):
        started[0].receive(20.0)


def test_a_process_outlives_the_thread_that_asked_for_it(started: list[JsonProcess]) -> None:
    code = """
        import os
        from tasks.core.json_worker import Parent
        parent = Parent(os.getppid())
        print("for the log")
        for message in parent:
            parent.send(message)
    """
    thread = threading.Thread(target=start, args=(started, code))
    thread.start()
    thread.join()
    started[0].send({"a": 1}, 20.0)
    assert started[0].receive(20.0) == {"a": 1}


def test_a_killed_child_is_noticed_when_it_is_written_to(started: list[JsonProcess], tmp_path: Path) -> None:
    echo = start(started, ECHO, tmp_path / "log")
    os.kill(echo.pid, signal.SIGKILL)
    with pytest.raises(ProcessFailure, match="ended with signal 9"):
        echo.send({"numbers": list(range(100_000))}, 5.0)
    assert not echo.alive


def test_the_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = f"""
        import os, sys, time
        from pathlib import Path
        from tasks.core.json_process import JsonProcess, environment
        inner = "import sys, time, tasks.core.parent_death as p; p.die_with(int(sys.argv[1])); time.sleep(60)"
        command = [sys.executable, "-c", inner, str(os.getpid())]
        child = JsonProcess("inner", command, environment(), Path({str(tmp_path / "log")!r}))
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
