"""Weights that are sent to servers: whole or not at all, over real HTTP, with our middleware."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from params.engine import Engine
from tasks.artefacts.artefact import Artefact
from tasks.engines import weights_sender, weights_shelf
from tasks.engines.base import EngineFailure
from tasks.engines.vllm_guard import KEY, Guard
from tasks.engines.weights_receiver import DIGEST_HEADER, ROUTE, Receiver
from tasks.engines.weights_shelf import File, Refusal, Shelf, name_of
from tests.tasks.engines.protocol_server import Server
from tests.tasks.engines.server_world import SAMPLING, World, expected, requests


class Apart(World):
    """Servers that see no folder of the trainer's."""

    def open(self, servers: int = 1, **settings: Any) -> Any:
        self.start_servers(servers, shelf=self.shelf)
        return self.engine(weights="http", **settings)

    @property
    def shelf(self) -> Path:
        folder = self.scratch / "shelf"
        folder.mkdir(exist_ok=True)
        return folder


@pytest.fixture
def world(tiny_model: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Apart]:
    monkeypatch.setattr(weights_sender, "PART_BYTES", 1 << 14)
    made = Apart(tiny_model, tmp_path)
    yield made
    made.close()


def parts(server: Server) -> int:
    """Parts of files that it was sent."""
    return sum(count for path, count in server.asked.items() if path.startswith(f"{ROUTE}/"))


def test_a_policy_that_is_sent_is_the_trainers(world: Apart) -> None:
    engine = world.open(2)
    for policy in (None, world.policy(1).path, world.policy(2).path, None):
        engine.load(policy)
        expected(engine, requests())(engine.generate(requests(), SAMPLING))
    assert all(parts(server) > 2 for server in world.servers)
    shutil.rmtree(engine._folder)
    expected(engine, requests())(engine.generate(requests(), SAMPLING))


def test_adapters_are_sent_where_a_server_takes_them(world: Apart) -> None:
    engine = world.open()
    server = world.servers[0]
    server.hello["lora"] = True
    for policy in (world.policy(1).path, None, world.policy(2).path):
        engine.load(policy)
        expected(engine, requests())(engine.generate(requests(), SAMPLING))
    assert len(server.adapters) == 2
    assert {path.split("/")[-2] for path in server.asked if path.startswith(f"{ROUTE}/")} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_what_is_there_is_not_sent_again(world: Apart) -> None:
    engine = world.open()
    one, two = world.policy(1).path, world.policy(2).path
    for policy in (one, two):
        engine.load(policy)
    before = parts(world.servers[0])
    for policy in (one, two, one):
        engine.load(policy)
    assert parts(world.servers[0]) == before
    expected(engine, requests())(engine.generate(requests(), SAMPLING))


def test_a_harmed_part_is_sent_again(world: Apart) -> None:
    engine = world.open()
    server, harmed = world.servers[0], list[str]()

    def harm(path: str, count: int) -> str | None:
        if path.startswith(f"{ROUTE}/") and path.endswith("/16384") and len(harmed) < 2:
            harmed.append(path)
            return "harm"
        return None

    server.fault = harm
    engine.load(world.policy().path)
    assert len(harmed) == 2
    expected(engine, requests())(engine.generate(requests(), SAMPLING))


def test_a_server_to_which_nothing_comes_through_is_lost_in_one_line(world: Apart) -> None:
    engine = world.open()
    world.servers[0].fault = lambda path, count: "harm" if path.startswith(f"{ROUTE}/") else None
    with pytest.raises(
        EngineFailure, match=r"no server is left: .*do not come through: .*another digest"
    ) as caught:
        engine.load(world.policy().path)
    assert "\n" not in str(caught.value)
    assert world.servers[0].version == "base"


@pytest.mark.parametrize("restarts", [False, True])
def test_a_broken_transfer_goes_on_or_begins_again(world: Apart, restarts: bool) -> None:
    engine = world.open()
    server, broken = world.servers[0], list[str]()

    def break_off(path: str, count: int) -> str | None:
        if path.startswith(f"{ROUTE}/") and path.endswith("/49152") and not broken:
            broken.append(path)
            return "reset"
        if broken and restarts and len(broken) == 1:
            broken.append(path)
            server.receives_anew()
        return None

    server.fault = break_off
    engine.load(world.policy().path)
    expected(engine, requests())(engine.generate(requests(), SAMPLING))
    name = broken[0].rsplit("/", 1)[0]
    assert server.asked[f"{name}/0"] == 1 + restarts
    assert server.asked[broken[0]] == 2


def test_a_server_without_the_routes_is_told_how_to_be_started(world: Apart) -> None:
    world.start_servers(1)
    engine = world.engine(weights="http")
    with pytest.raises(
        EngineFailure, match=r"has no /ostinato/weights; .*--middleware tasks\.engines\.vllm_guard"
    ):
        engine.load(world.policy().path)


def test_where_weights_go_is_said_once() -> None:
    with pytest.raises(ValidationError, match=r"expected engine\.name server, and no engine.weights_folder"):
        Engine(name="server", servers=("http://a:1",), weights="http", weights_folder="/shared")
    with pytest.raises(ValidationError, match=r"expected engine\.name server"):
        Engine(weights="http")


def file(name: str, data: bytes) -> File:
    return File(name, len(data), hashlib.sha256(data).hexdigest())


def test_a_file_of_another_digest_is_refused_and_forgotten(tmp_path: Path) -> None:
    shelf, data = Shelf(tmp_path, 1 << 20), b"weights"
    wrong = File("model.safetensors", len(data), "0" * 64)
    shelf.begin([wrong])
    with pytest.raises(Refusal, match=r"model\.safetensors: its digest is another than was announced"):
        shelf.add(name_of([wrong]), wrong.name, 0, data, hashlib.sha256(data).hexdigest())
    assert shelf.begin([wrong]) == {wrong.name: 0}
    with pytest.raises(Refusal, match="not here, or not whole"):
        shelf.folder(name_of([wrong]))


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    shelf, names = Shelf(tmp_path, 1 << 20, kept=2), []
    for number in range(3):
        data = bytes([number]) * 9
        one = file("model.safetensors", data)
        shelf.begin([one])
        names.append(name_of([one]))
        assert shelf.add(names[-1], one.name, 0, data[:4], hashlib.sha256(data[:4]).hexdigest()) == 4
        assert shelf.begin([one]) == {one.name: 4}
        assert shelf.add(names[-1], one.name, 4, data[4:], hashlib.sha256(data[4:]).hexdigest()) == 9
        shelf.folder(names[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[0], names[2]])
    with pytest.raises(Refusal):
        shelf.folder(names[1])


def test_what_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, one = Shelf(tmp_path, 1 << 20), File("model.safetensors", 1 << 21, "0" * 64)
    with pytest.raises(Refusal, match=r"0\.00195 GiB; expected at most 0\.000976562, or more in OSTINATO"):
        shelf.begin([one])
    monkeypatch.setattr(weights_shelf, "FREE_BYTES", 1 << 60)
    with pytest.raises(Refusal, match="free for them") as caught:
        shelf.begin([file("model.safetensors", b"small")])
    assert caught.value.status == 507
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/x.json", ".x.json", "a/b.json", "model.py", "", "x.json\n", 7, None],
)
def test_no_name_of_a_file_leaves_the_folder(name: Any) -> None:
    with pytest.raises(Refusal, match="is no name of a file") as caught:
        weights_shelf.announced({"files": [{"name": name, "size": 1, "sha256": "0" * 64}]})
    assert "\n" not in str(caught.value)


def ask(app: Any, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    """The answer of an ASGI application."""
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    told = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": told}
    asyncio.run(app(scope, receive, send))
    return said[0]["status"], json.loads(said[1]["body"])


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """A server that says what it was asked."""
    body = (await receive())["body"]
    length = int(dict(scope["headers"]).get(b"content-length", len(body)))
    assert length == len(body)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (ROUTE, b"no json", 400),
        (ROUTE, b"[]", 400),
        (ROUTE, b'{"files": [7]}', 400),
        (ROUTE, b'{"files": {}}', 400),
        (ROUTE, b" " * (2 << 20), 413),
        (f"{ROUTE}/name/model.safetensors", b"x", 404),
        (f"{ROUTE}/../../etc/passwd/0", b"x", 404),
        (f"{ROUTE}/name/passwd/0", b"x", 422),
        (f"{ROUTE}/name/model.safetensors/-1", b"x", 404),
        (f"{ROUTE}/name/model.safetensors/0", b"x" * ((4 << 20) + 1), 413),
        ("/collective_rpc", b'{"method": "m", "kwargs": {"weights": "held:../../etc"}}', 503),
        ("/v1/load_lora_adapter", b'{"lora_path": "held:' + b"0" * 64 + b'"}', 503),
    ],
)
def test_what_is_asked_amiss_is_refused(tmp_path: Path, path: str, body: bytes, status: int) -> None:
    said, content = ask(Receiver(echo, Shelf(tmp_path, 1 << 20), ["serve"]), path, body)
    assert said == status
    assert "\n" not in content["error"]
    assert not list(tmp_path.iterdir())


def test_a_part_of_weights_that_nobody_announced_is_refused(tmp_path: Path) -> None:
    receiver = Receiver(echo, Shelf(tmp_path, 1 << 20))
    digest = {DIGEST_HEADER: hashlib.sha256(b"x").hexdigest()}
    status, content = ask(receiver, f"{ROUTE}/{'0' * 64}/model.safetensors/0", b"x", **digest)
    assert (status, content) == (
        409,
        {"error": "model.safetensors: not announced; expected its weights to be first"},
    )


def test_other_requests_go_by_as_they_are(tmp_path: Path) -> None:
    receiver = Receiver(echo, Shelf(tmp_path, 1 << 20), ["serve", "--model", "/base"])
    asked = {"method": "ostinato_reload", "kwargs": {"weights": "/shared/weights"}}
    assert ask(receiver, "/collective_rpc", json.dumps(asked).encode()) == (200, asked)
    asked["kwargs"] = {"weights": "held:base"}
    assert ask(receiver, "/collective_rpc", json.dumps(asked).encode())[1]["kwargs"] == {"weights": "/base"}
    assert ask(receiver, "/v1/completions", b'{"prompt": "held:base"}')[1] == {"prompt": "held:base"}


def test_without_the_key_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    assert ask(Guard(echo), ROUTE, b"no json") == (401, {"error": "Unauthorized"})
    assert ask(Guard(echo), ROUTE, b"no json", authorization="Bearer secret")[0] == 400


def test_what_a_killed_server_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(weights_shelf.CACHE, str(tmp_path))
    monkeypatch.setattr(weights_shelf, "YOUNG_SECONDS", 0.0)
    dead = tmp_path / "ostinato-weights-dead"
    dead.mkdir()
    (dead / "lock").touch()
    weights_shelf.opened()
    (alive,) = tmp_path.iterdir()
    assert alive.name != dead.name
    weights_shelf.opened()
    assert alive.is_dir()
