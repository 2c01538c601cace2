"""The judge: order, isolation of what hangs, dies or overeats, and no process left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from params.base import BadInput, Choice
from tasks.rewards import judge as module
from tasks.rewards.base import Answer, Group, Verdict
from tasks.rewards.judge import Judge, JudgeFailure

ROOT = Path(__file__).parents[3]
RIGHT, WRONG = Verdict(1.0), Verdict(0.0)


@pytest.fixture
def hostile_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers do what answers tell them to."""
    script = Path(__file__).with_name("hostile_worker.py")
    monkeypatch.setattr(module, "_COMMAND", (sys.executable, str(script)))


@pytest.fixture
def hostile(hostile_command: None) -> Iterator[Judge]:
    """Two such workers."""
    made = Judge(Choice(name="similarity", timeout_seconds=1.0, memory_mib=256), workers=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    made = Judge(Choice(name="math", timeout_seconds=2.0, worked_out=False), workers=1)
    yield made
    made.close()


def submit(judge: Judge, gold: str, answer: str) -> Future[dict[int, list[Verdict]]]:
    """Begin to judge one answer alone."""
    return judge.start(Group(gold, (Answer(answer),)), whole=False, explain=False)


def said(judged: Future[dict[int, list[Verdict]]]) -> Verdict:
    return judged.result(timeout=60)[0][0]


def workers() -> list[psutil.Process]:
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "hostile_worker" in " ".join(child.cmdline())]


def test_answers_keep_their_order(judge: Judge) -> None:
    pairs = [(str(i % 7), f"it is {i % 5}.") for i in range(100)]
    seen: list[int] = []
    verdicts = judge.judge(pairs, seen.append)
    assert [verdict.reward for verdict in verdicts] == [float(i % 7 == i % 5) for i in range(100)]
    assert seen == list(range(1, 101))
    assert judge.judge([]) == []


def test_answers_may_be_judged_while_others_are_sampled(judge: Judge) -> None:
    futures = [submit(judge, "7", text) for text in ("7", "8")]
    assert [said(future) for future in futures] == [RIGHT, WRONG]


def test_one_hostile_answer_harms_no_other(hostile: Judge) -> None:
    answers = ["a", "sleep 60", "a", "exit 3", "a", "eat 1000000000", "a", "raise x", "a"]
    verdicts = hostile.judge([("a", answer) for answer in answers])
    assert verdicts[::2] == [RIGHT] * 5
    assert verdicts[1::2] == [
        Verdict(None, "timed out after 1 s"),
        Verdict(None, "judge died (exit code 3)"),
        Verdict(None, "judge ran out of memory (256 MiB)"),
        Verdict(None, "judge failed: KeyError: 'x'"),
    ]
    assert len(workers()) <= 2


def test_what_cannot_be_explained_is_a_failure_of_its_own_answer(hostile: Judge) -> None:
    found = hostile.judge([("a", answer) for answer in ("a", "unexplained", "b")], explain=True)
    assert [verdict.reward for verdict in found] == [1.0, None, 0.0]
    assert found[1].error == "judge failed: KeyError: 'unexplained'"


def test_a_killed_worker_costs_no_answer(hostile_command: None) -> None:
    alone = Judge(Choice(name="similarity", timeout_seconds=60.0), workers=1)
    assert alone.judge([("a", "a")]) == [RIGHT]
    waiting = [submit(alone, "a", answer) for answer in ("sleep 1", "a")]
    (victim,) = workers()
    time.sleep(0.2)
    victim.kill()
    assert [said(future) for future in waiting] == [WRONG, RIGHT]
    (idle,) = workers()
    idle.kill()
    idle.wait()
    assert alone.judge([("a", "a")]) == [RIGHT]
    alone.close()


def test_what_takes_too_long_is_the_answers_doing_once_its_turn_has_begun(hostile: Judge) -> None:
    answers = ["begin sleep 60", "sleep 60", "begin exit 4", "begin a", "begin begin a", "a"]
    assert hostile.judge([("a", answer) for answer in answers]) == [
        Verdict(0.0, "timed out after 1 s"),
        Verdict(None, "timed out after 1 s"),
        Verdict(None, "judge died (exit code 4)"),
        RIGHT,
        RIGHT,
        RIGHT,
    ]


def test_workers_killed_at_random_under_load_lose_no_score(hostile_command: None) -> None:
    judge = Judge(Choice(name="similarity", timeout_seconds=60.0), workers=2)
    answers = ["a" if i % 3 else "b" for i in range(6000)]
    answers[::50] = ["sleep 0.02"] * len(answers[::50])
    generator = random.Random(7)
    kills = sorted(generator.sample(range(100, 5000), 4))
    judge.judge([("a", "a")] * 4)
    futures = [submit(judge, "a", answer) for answer in answers]
    for done in kills:
        futures[done].result()
        alive = workers()
        for victim in generator.sample(alive, generator.randint(1, len(alive))):
            victim.kill()
    assert [said(future) for future in futures] == [Verdict(float(answer == "a")) for answer in answers]
    judge.close()


def test_what_a_judge_prints_is_no_verdict_and_it_writes_no_file(hostile: Judge, tmp_path: Path) -> None:
    pairs = [("a", "print"), ("a", "print"), ("a", "a"), ("a", "b")]
    assert hostile.judge(pairs) == [WRONG, WRONG, RIGHT, WRONG]
    target = tmp_path / "file"
    assert hostile.judge([("a", f"write {target}")])[0].reward is None
    assert not target.exists() or target.stat().st_size == 0


def test_workers_do_not_load_torch(hostile: Judge) -> None:
    answers = ["loaded torch", "loaded transformers", "loaded sys"]
    assert [verdict.reward for verdict in hostile.judge([("a", answer) for answer in answers])] == [
        0.0,
        0.0,
        1.0,
    ]
    code = "import sys, tasks.rewards.math; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_workers_outlive_the_thread_that_asked_first(hostile: Judge) -> None:
    thread = threading.Thread(target=lambda: hostile.judge([("a", "a")]))
    thread.start()
    thread.join()
    before = workers()
    assert hostile.judge([("a", "a")]) == [RIGHT]
    assert set(before) <= set(workers())


def test_closing_ends_the_workers_and_cancels_what_waits(hostile: Judge) -> None:
    hostile.judge([("a", "a")] * 4)
    running = workers()
    assert running
    futures = [submit(hostile, "a", "sleep 0.5") for _ in range(20)]
    hostile.close()
    hostile.close()
    assert not any(process.is_running() for process in running)
    assert all(future.done() for future in futures)
    assert any(future.cancelled() for future in futures)
    with pytest.raises(RuntimeError, match="closed"):
        submit(hostile, "a", "a")


def test_a_judge_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    script = str(Path(__file__).with_name("hostile_worker.py"))
    monkeypatch.setattr(module, "_COMMAND", (sys.executable, script, "stillborn"))
    stillborn = Judge(Choice(name="similarity"))
    with pytest.raises(JudgeFailure, match="the judge does not start: no judge today"):
        stillborn.judge([("a", "a")])
    stillborn.close()


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel to end the child with its parent")
def test_workers_die_with_a_killed_parent() -> None:
    code = (
        "from params.base import Choice\nfrom tasks.rewards.base import Answer, Group\n"
        "from tasks.rewards.judge import Judge\nimport psutil, time\n"
        "j = Judge(Choice(name='math', timeout_seconds=600.0, worked_out=False))\n"
        "j.judge([('7', '7')]); a = j.begin(Group('7', ()), 1)\n"
        "a.add(0, Answer('9**9**9**9'))\n"
        "time.sleep(0.2); print(psutil.Process().children()[0].pid, flush=True); a.verdicts()"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        busy = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
    assert not psutil.wait_procs([busy], timeout=10)[1]


def test_bad_options_are_found_before_anything_starts() -> None:
    with pytest.raises(BadInput, match=r"task\.reward: no 'maths' .*; did you mean 'math'\?"):
        Judge(Choice(name="maths"))
    with pytest.raises(
        BadInput, match=r"task\.reward\.timeout: unknown key; did you mean 'timeout_seconds'\?"
    ):
        Judge(Choice(name="math", timeout=3))
