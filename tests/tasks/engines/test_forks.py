"""Processes that sample beside each other: the same answers whatever their number, and none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from params.schema import Params
from tasks.engines import forks, in_process
from tasks.engines.base import EngineFailure, Request, Response, Sampling
from tasks.engines.in_process import InProcess
from tasks.policy.policy import Policy
from tasks.prepare import nano
from tests.conftest import as_artefact
from tests.tasks.rollout_rows import parameters

SAMPLING = Sampling(0.9, 8, (2, 50), top=2, entropy=True)
ONE = Response((5, 6), (-0.5, -0.25), "stop", (5, 7, 6, 8), (-0.5, -1.0, -0.25, -2.0), (0.1, 0.2))


def answered(index: int) -> Callable[[], forks.Steps]:
    def steps() -> forks.Steps:
        yield 1, {}
        yield 1, {index: ONE}

    return steps


def whole(parts: list[Callable[[], forks.Steps]], processes: int = 2, patience: float = 20.0) -> set[int]:
    return {index for _, done in forks.sampled(parts, processes, patience) for index in done}


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.fixture(autouse=True)
def _nobody_is_left_behind() -> Iterator[None]:
    before = children()
    yield
    assert children() == before


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_all_that_is_sampled_comes_whoever_samples_it(processes: int) -> None:
    found, tokens = dict[int, Response](), 0
    for drawn, done in forks.sampled([answered(index) for index in range(5)], processes, 20.0):
        tokens += drawn
        found |= done
    assert found == dict.fromkeys(range(5), ONE)
    assert tokens == 10


def test_two_compute_at_the_same_time_and_neither_in_this_process() -> None:
    ours, its = os.pipe()

    def waits() -> forks.Steps:
        yield 1, {0: Response((int(os.read(ours, 20)),), (0.0,), "stop")}

    def tells() -> forks.Steps:
        os.write(its, str(os.getpid()).encode())
        yield 1, {1: Response((os.getpid(),), (0.0,), "stop")}

    found = {i: r for _, done in forks.sampled([waits, tells], 2, 20.0) for i, r in done.items()}
    assert found[0].token_ids == found[1].token_ids != (os.getpid(),)
    os.close(ours)
    os.close(its)


def test_what_a_process_says_of_its_failure_is_said_here() -> None:
    def fails() -> forks.Steps:
        yield 1, {}
        raise EngineFailure("transformers: out of memory")

    with pytest.raises(EngineFailure, match=r"^transformers: out of memory$"):
        whole([answered(0), fails])


def test_an_error_that_nobody_foresaw_is_told_with_its_place() -> None:
    def fails() -> forks.Steps:
        yield 1, {}
        raise ZeroDivisionError("of all things")

    with pytest.raises(EngineFailure, match=r"(?s)in fails.*ZeroDivisionError: of all things"):
        whole([answered(0), fails])


def test_a_process_that_is_killed_is_an_error() -> None:
    def dies() -> forks.Steps:
        yield 1, {}
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(EngineFailure, match="a process that samples ended with exit code -9"):
        whole([answered(0), dies])


def test_so_is_one_that_is_killed_in_the_middle_of_a_message() -> None:
    def tells() -> forks.Steps:
        yield 1, {0: ONE}
        yield 1, {1: Response((5,) * 10**6, (0.0,) * 10**6, "stop")}  # more than a pipe holds

    before = children()
    steps = forks.sampled([tells, tells], 2, 20.0)
    next(iter(steps))
    time.sleep(1.0)  # both wait for somebody to read on
    for pid in set(children()) - set(before):
        os.kill(int(pid), signal.SIGKILL)
    with pytest.raises(EngineFailure, match="a process that samples ended with exit code -9"):
        list(steps)


def test_a_process_that_says_nothing_is_an_error() -> None:
    def hangs() -> forks.Steps:
        time.sleep(600.0)
        yield 1, {}

    with pytest.raises(EngineFailure, match=r"no token in 0.3 s"):
        whole([answered(0), hangs], patience=0.3)


def test_who_stops_listening_ends_them() -> None:
    def endless() -> forks.Steps:
        while True:
            yield 1, {0: ONE}

    steps = forks.sampled([endless, endless], 2, 20.0)
    assert next(iter(steps)) == (1, {0: ONE})
    steps.close()  # type: ignore[attr-defined]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(1, 5))
def test_parts_are_about_equal_and_lose_nobody(sizes: list[int], count: int) -> None:
    numbers = iter(range(sum(sizes)))
    families = [
        [(next(numbers), Request((1, place), 0)) for _ in range(size)] for place, size in enumerate(sizes)
    ]
    parts = forks.split(families, count)
    rows = [sum(map(len, part)) for part in parts]
    assert sorted(index for part in parts for family in part for index, _ in family) == list(
        range(sum(sizes))
    )
    assert max(rows) <= 2 * -(-sum(sizes) // count)
    assert all(len({request.prompt_ids for _, request in family}) == 1 for part in parts for family in part)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """Of a model wide enough to be sampled in parts."""
    folder = tmp_path_factory.mktemp("wide")
    nano.save(nano.create(3, hidden=in_process.NARROWEST, layers=2), folder)
    params: Params = parameters(context=64)
    policy = Policy.open(as_artefact(folder, "model").path, params)
    yield InProcess(policy, params)
    policy.close()


def test_an_answer_is_the_same_by_one_process_and_by_two(engine: InProcess) -> None:
    asked = [Request((1, 20 + p, 30 + p), 100 * p + s) for p in range(5) for s in range(8)]
    assert len(asked) > in_process.FEW
    told: list[tuple[int, int]] = []
    heard: dict[int, Response] = {}
    alone = engine.generate(asked, SAMPLING)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        beside = engine.generate(asked, SAMPLING, lambda *one: told.append(one), heard.__setitem__)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert beside == alone
    assert [heard[index] for index in range(len(asked))] == alone
    assert told[-1] == (len(asked), sum(len(response.token_ids) for response in alone))


ENDLESS = """
import os, time
from tasks.engines import forks

def endless():
    print(os.getpid(), flush=True)
    while True:
        time.sleep(0.01)
        yield 1, {}

for _ in forks.sampled([endless, endless], 2, 60.0):
    pass
"""


def test_they_end_with_the_process_that_asked() -> None:
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True) as asks:
        assert asks.stdout is not None
        forked = [int(asks.stdout.readline()) for _ in range(2)]
        asks.kill()
    deadline = time.monotonic() + 20.0
    while any(_lives(pid) for pid in forked) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_lives(pid) for pid in forked)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
