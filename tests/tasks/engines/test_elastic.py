"""Servers that join and leave while a round is sampled, and slow ones: over real HTTP."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from params.base import BadInput
from params.engine import Engine
from tasks.artefacts.artefact import Artefact
from tasks.engines import roster
from tasks.engines.base import EngineFailure, Response
from tasks.engines.vllm_pool import Servers
from tests.tasks.engines.server_world import GENERATE, PATIENCE, SAMPLING, World, after, expected, requests


class Listed(World):
    """Servers that stand in a file."""

    @property
    def file(self) -> Path:
        return self.scratch / "servers.txt"

    def write(self, *lines: str) -> None:
        beside = self.file.with_suffix(".new")
        beside.write_text("".join(f"{line}\n" for line in lines))
        beside.replace(self.file)

    def open(self, servers: int, of_these: int | None = None, **settings: Any) -> Servers:
        """The engine over a file with the first ``of_these`` of so many servers."""
        self.start_servers(servers)
        self.write("# ours", *(server.address for server in self.servers[:of_these]))
        return self.engine(servers=(), servers_file=str(self.file), **settings)


@pytest.fixture
def world(tiny_model: Artefact, tmp_path: Path) -> Iterator[Listed]:
    made = Listed(tiny_model, tmp_path)
    yield made
    made.close()


def held_until(true: Callable[[], object]) -> Callable[[str, int], str | None]:
    """No fault, but no answer before this is true."""

    def wait(path: str, count: int) -> None:
        until = time.monotonic() + 40.0
        while path == GENERATE and not true() and time.monotonic() < until:
            time.sleep(0.02)

    return wait


def test_a_server_that_is_listed_in_the_middle_gets_the_policy_and_then_work(
    world: Listed, caplog: pytest.LogCaptureFixture
) -> None:
    engine, policy = world.open(2, 1), world.policy()
    engine.load(policy.path)
    first, second = world.servers
    asked, heard = requests(30), list[int]()

    def list_the_other(index: int, response: Response) -> None:
        heard.append(index)
        if len(heard) == 3:
            world.write(first.address, f"{second.address}  # new")
            first.fault = held_until(lambda: second.prompts)

    with caplog.at_level(logging.WARNING):
        expected(engine, asked)(engine.generate(asked, SAMPLING, finished=list_the_other))
    assert sorted(heard) == list(range(len(asked)))
    assert second.version == policy.digest
    assert second.prompts
    assert f"joins: {second.address}" in caplog.text


def test_a_server_that_is_struck_off_ends_what_it_holds_and_gets_nothing_more(world: Listed) -> None:
    engine, policy = world.open(2), world.policy()
    engine.load(policy.path)
    first, second = world.servers
    asked, after_leaving = requests(30), list[int]()

    def strike(index: int, response: Response) -> None:
        if len(second.prompts) >= 2 and first.address + "\n" != world.file.read_text():
            world.write(first.address)
            first.fault = held_until(lambda: engine._states[-1].leaving or len(engine._states) == 1)
        elif len(engine._states) == 1:
            after_leaving.append(len(second.prompts))

    expected(engine, asked)(engine.generate(asked, SAMPLING, finished=strike))
    assert len(set(after_leaving)) == 1
    assert [state.client.address for state in engine._states] == [first.address]
    assert engine.generate(asked, SAMPLING)
    assert len(second.prompts) == after_leaving[0]


def test_a_server_that_is_struck_off_and_gone_leaves_its_work_to_the_others(world: Listed) -> None:
    engine = world.open(2)
    engine.load(world.policy().path)
    first, second = world.servers

    def end(index: int, response: Response) -> None:
        if second.fault("", 0) is None and second.prompts:
            world.write(first.address)
            second.fault = lambda path, count: "reset"

    expected(engine, requests())(engine.generate(requests(), SAMPLING, finished=end))
    assert [state.client.address for state in engine._states if not state.leaving] == [first.address]


def test_between_rounds_the_list_may_become_another_altogether(world: Listed) -> None:
    engine, policy = world.open(3, 2), world.policy()
    engine.load(policy.path)
    expected(engine, requests())(engine.generate(requests(), SAMPLING))
    world.write(world.servers[2].address)
    for server in world.servers[:2]:
        server.prompts.clear()
        server.fault = lambda path, count: "reset"
    engine.load(policy.path)
    expected(engine, requests())(engine.generate(requests(), SAMPLING))
    assert [bool(server.prompts) for server in world.servers] == [False, False, True]


def test_an_empty_list_is_waited_for(world: Listed) -> None:
    engine = world.open(1, 0, start_timeout=40)
    looked = engine._members.look
    looks: list[int] = []

    def look() -> tuple[str, ...]:
        looks.append(1)
        if len(looks) == 4:
            world.write(world.servers[0].address)
        return looked()

    engine._members.look = look  # type: ignore[method-assign]
    engine.load(world.policy().path)
    expected(engine, requests())(engine.generate(requests(), SAMPLING))


def test_a_list_that_stays_empty_is_one_line(world: Listed) -> None:
    engine = world.open(1, 0, start_timeout=1)
    with pytest.raises(EngineFailure) as caught:
        engine.load(None)
    assert str(caught.value) == f"engine.servers_file {world.file}: no server for 1 s; expected one"


def test_a_list_that_becomes_empty_in_the_middle_is_one_line(world: Listed) -> None:
    engine = world.open(1, start_timeout=1)
    engine.load(None)

    def strike(index: int, response: Response) -> None:
        world.write()

    world.servers[0].fault = held_until(lambda: world.file.read_text() == "" and engine._states[0].leaving)
    world.write()
    with pytest.raises(EngineFailure, match=r"servers\.txt: no server for 1 s; expected one$"):
        engine.generate(requests(), SAMPLING, finished=strike)


def test_a_line_that_is_no_address_is_noted_once_and_the_rest_goes_on(
    world: Listed, caplog: pytest.LogCaptureFixture
) -> None:
    engine = world.open(2)
    engine.load(None)
    world.write(world.servers[0].address, "10.0.0.5:8001", world.servers[1].address, "http://me:secret@host")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            expected(engine, requests())(engine.generate(requests(), SAMPLING))
            engine.load(None)
    line = (
        f"engine.servers_file {world.file}, line 2: '10.0.0.5:8001' is no address; expected http://HOST:PORT"
    )
    assert caplog.text.count(line) == 1
    assert f"{world.file}, line 4: an address with a password" in caplog.text
    assert "secret" not in caplog.text
    assert all(server.prompts for server in world.servers)
    world.file.unlink()
    engine.load(None)
    expected(engine, requests())(engine.generate(requests(), SAMPLING))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("http://a:1\n\n# one\nhttp://b:x\n", ", line 4: 'http://b:x' has no valid port; expected"),
        ("dns://vllm\n", ", line 1: 'dns://vllm' has no port; expected dns://NAME:PORT"),
        (None, ": no such file or directory; expected a file with one address a line"),
    ],
)
def test_a_run_does_not_start_with_a_list_that_cannot_be_read(
    tmp_path: Path, text: str | None, line: str
) -> None:
    path = tmp_path / "servers"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput) as caught:
        roster.check(Engine(name="server", servers_file=str(path)))
    assert str(caught.value).startswith(f"engine.servers_file {path}{line}")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
def test_what_no_resolver_takes_is_refused(tmp_path: Path, host: str) -> None:
    for address in (f"http://{host}:80", f"dns://{host}:80"):
        with pytest.raises(ValueError, match="has no valid host name"):
            Engine(name="server", servers=(address,))
        (tmp_path / "list").write_text(f"{address}\n")
        with pytest.raises(BadInput, match=r"list, line 1: .* has no valid host name"):
            roster.check(Engine(name="server", servers_file=str(tmp_path / "list")))


def test_a_name_stands_for_every_address_that_it_resolves_to(
    world: Listed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Any] = [
        ["10.0.0.7", "10.0.0.6", "10.0.0.7"],
        ["fe80::1"],
        socket.EAI_AGAIN,
        socket.EAI_NONAME,
    ]

    def resolve(host: str, port: int, type: int) -> list[Any]:
        assert (host, port) == ("vllm.example", 8001)
        answer = answers.pop(0)
        if isinstance(answer, int):
            raise socket.gaierror(answer, "Temporary failure in name resolution")
        return [(0, 0, 0, "", (ip, port)) for ip in answer]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    names = roster.Roster(Engine(name="server", servers=("dns://vllm.example:8001", "http://10.0.0.6:8001")))
    assert names.changes
    assert names.look() == ("http://10.0.0.6:8001", "http://10.0.0.7:8001")
    assert names.look() == ("http://[fe80::1]:8001", "http://10.0.0.6:8001")
    assert names.look() == ("http://[fe80::1]:8001", "http://10.0.0.6:8001")
    assert "dns://vllm.example:8001: not resolved: temporary failure in name resolution" in caplog.text
    assert names.look() == ("http://10.0.0.6:8001",)


def test_what_a_slow_server_holds_at_the_end_is_sent_to_an_idle_one_as_well(world: Listed) -> None:
    world.start_servers(3)
    engine = world.engine(replace(PATIENCE, overdue_known=5, overdue_least=0.05), max_sequences=12)
    engine.load(world.policy().path)
    slow = world.servers[0]
    slow.fault = held_until(lambda: False)
    asked, heard = requests(9), list[int]()
    made = engine.generate(asked, SAMPLING, finished=lambda index, response: heard.append(index))
    expected(engine, asked)(made)
    assert sorted(heard) == list(range(len(asked)))
    assert not slow.prompts  # nobody waited for it


def test_a_server_ten_times_slower_gets_less(world: Listed) -> None:
    world.start_servers(3)
    engine = world.engine(replace(PATIENCE, overdue_known=5, overdue_least=0.05), max_sequences=4)
    engine.load(None)
    for server, seconds in zip(world.servers, (0.5, 0.05, 0.05), strict=True):
        server.fault = lambda path, count, seconds=seconds: time.sleep(seconds * (path == GENERATE))
    asked = requests(24)
    expected(engine, asked)(engine.generate(asked, SAMPLING))
    slow, *others = (len(server.prompts) for server in world.servers)
    assert slow < min(others) / 2
    assert not engine._states[0].epoch  # slow is not lost


def test_one_that_is_sent_twice_and_fails_once_is_done(world: Listed) -> None:
    world.start_servers(2)
    engine = world.engine(replace(PATIENCE, overdue_known=3, overdue_least=0.05), max_sequences=12)
    engine.load(None)
    first, second = world.servers
    fails_at = second.asked[GENERATE] + 16
    first.fault = held_until(lambda: second.asked[GENERATE] >= fails_at)
    second.fault = after(GENERATE, fails_at, "503")
    expected(engine, requests())(engine.generate(requests(), SAMPLING))
