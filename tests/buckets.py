"""A server that speaks S3 on loopback, buckets in it, and a proxy before it that does harm on purpose."""

from __future__ import annotations

import http.client
import logging
import os
import random
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from params.store import StoreSettings

KEY, SECRET = "planted:accesskey", "planted/secret+access/key"
"""What the tests' own server takes, and so does the Swift that ``.ci/services`` starts."""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of ``OSTINATO_TEST_S3``, or of a server of our own that keeps all in memory."""
    if given := os.environ.get("OSTINATO_TEST_S3"):
        yield given
        return
    with moto_server() as address:
        yield address


@pytest.fixture(scope="session")
def conditional_server() -> Iterator[str]:
    """The address of a server that keeps to conditional writes, which the Swift of CI does not."""
    with moto_server() as address:
        yield address


@contextmanager
def moto_server() -> Iterator[str]:
    """A server that keeps all in memory, one write at a time: moto looks at a condition and then writes."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer
    from moto.s3.responses import S3Response

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    lock, put = threading.Lock(), S3Response.put_object

    def one_at_a_time(response: S3Response) -> Any:
        with lock:
            return put(response)

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Response, "put_object", one_at_a_time)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@dataclass
class Bucket:
    """An empty bucket of a test's own, and how a test looks into it past the program."""

    endpoint: str
    name: str
    environment: dict[str, str]
    """What a process needs to use it."""
    client: Any

    @property
    def url(self) -> str:
        """A prefix inside it."""
        return f"s3://{self.name}/some/where"

    def settings(self, **more: Any) -> StoreSettings:
        """Settings of the program, in parts as small as S3 allows."""
        return StoreSettings(**{"url": self.url, "endpoint_url": self.endpoint, "part_mib": 5, **more})

    def keys(self, prefix: str = "") -> dict[str, int]:
        """Every key below the prefix with its size."""
        found = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return {o["Key"]: o["Size"] for page in found for o in page.get("Contents", ())}

    def get(self, key: str) -> bytes:
        """The bytes of an object."""
        return bytes(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def put(self, key: str, data: bytes) -> None:
        """Put an object."""
        self.client.put_object(Bucket=self.name, Key=key, Body=data)


def new_bucket(endpoint: str, key: str = KEY, secret: str = SECRET) -> Bucket:
    """A bucket with a name that none had before."""
    options = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=options,
    )
    name = f"bucket-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=name)
    environment = {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/nonexistent/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return Bucket(endpoint, name, environment, client)


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket; this process has credentials for it."""
    return _used(new_bucket(s3_server), monkeypatch)


@pytest.fixture
def shared_bucket(conditional_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The same on a server that keeps to conditional writes."""
    return _used(new_bucket(conditional_server), monkeypatch)


def _used(made: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@dataclass
class Exchange:
    """One request on its way through the proxy."""

    method: str
    path: str
    body: bytes
    number: int
    """Counted from 0."""


Harm = Callable[[Exchange], str | tuple[int, str] | None]
"""``reset``, ``500``, ``truncate``, ``garble answer``, ``garble request``, ``lose answer``, ``ignore
conditions``, an answer as status and code, or None."""


@dataclass
class Proxy:
    """What went through."""

    address: str
    log: list[tuple[str, str, int]] = field(default_factory=list)
    """Method, path and length of the body of each request."""
    harmed: list[str] = field(default_factory=list)
    """What was done to the requests that were harmed."""

    def sent(self) -> int:
        """Bytes of all bodies that came in."""
        return sum(length for _, _, length in self.log)

    def gets(self, part: str = "") -> int:
        """How many objects were asked for."""
        return sum(method == "GET" and part in path for method, path, _ in self.log)


def by_chance(kinds: tuple[str, ...], share: float = 0.2, seed: int = 0) -> Harm:
    """Harm that share of the requests."""
    chance, lock = random.Random(seed), threading.Lock()

    def harm(exchange: Exchange) -> str | None:
        with lock:
            return chance.choice(kinds) if chance.random() < share else None

    return harm


@contextmanager
def proxied(target: str, harm: Harm) -> Iterator[Proxy]:
    """A proxy on a free port of 127.0.0.1 that does ``harm`` to what it passes on."""
    there = urlsplit(target)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                exchange = Exchange(self.command, self.path, body, len(proxy.log))
                proxy.log.append((self.command, self.path, len(body)))
            done = harm(exchange)
            if done is not None:
                with lock:
                    proxy.harmed.append(str(done))
            if isinstance(done, tuple):
                return self._answer(*done)
            if done == "500":
                return self._answer(500, "InternalError")
            if done == "reset":
                return self._reset()
            if done == "garble request" and body:
                body = bytes([body[0] ^ 1]) + body[1:]
            onward = http.client.HTTPConnection(str(there.hostname), there.port, timeout=30)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("expect", "connection")}
            if done == "garble request":
                headers = {k: v for k, v in headers.items() if k.lower() != "content-md5"}
            if done == "ignore conditions":
                headers = {k: v for k, v in headers.items() if k.lower() not in ("if-match", "if-none-match")}
            onward.request(self.command, self.path, body, headers)
            answer = onward.getresponse()
            content = answer.read()
            onward.close()
            if done == "lose answer":
                return self._reset()
            if done == "garble answer" and content:
                content = content[:-1] + bytes([content[-1] ^ 1])
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if done == "truncate" and len(content) > 1:
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                return self._reset()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

        def _answer(self, status: int, code: str) -> None:
            content = f"<Error><Code>{code}</Code><Message>so it is</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that went away

    server = Server(("127.0.0.1", 0), Handler)
    proxy = Proxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
