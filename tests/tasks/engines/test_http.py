"""A question to a server ends: with its answer, or with one line that says what came instead."""

from __future__ import annotations

import socket
import threading

import pytest

from tasks.engines import http
from tasks.engines.http import Client, Lost
from tests.raw_server import HEAD, Say, deep, drip, drip_head, server


@pytest.mark.timeout(60)
@pytest.mark.parametrize("say", [drip, drip_head])
def test_an_answer_that_comes_byte_by_byte_has_no_longer_than_one_that_does_not_come(say: Say) -> None:
    with server(say) as address, pytest.raises(Lost, match=r"no answer from /health in 0\.5 s"):
        Client(address).get("/health", 0.5)


@pytest.mark.parametrize("sent", [b"", b'{"sum"'])
def test_an_answer_that_breaks_off_is_lost(sent: bytes) -> None:
    def cut(taken: socket.socket, _: threading.Event) -> None:
        taken.sendall(HEAD + b"Content-Length: 10\r\n\r\n" + sent)

    with server(cut) as address, pytest.raises(Lost, match="incompleteread"):
        Client(address).get("/health", 30)


def test_an_answer_that_is_too_deep_or_too_long_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    for most in (1 << 20, 1000):
        monkeypatch.setattr(http, "MOST_BYTES", most)
        with server(deep) as address, pytest.raises(Lost, match="/models answered something other than JSON"):
            Client(address).get("/models", 30)


@pytest.mark.parametrize(
    "body",
    [
        b'Content-Length: 10\r\n\r\n{"sum": 3}',
        b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"sum\r\n5\r\n": 3}\r\n0\r\n\r\n',
        b'\r\n{"sum": 3}',  # until it hangs up
    ],
)
def test_an_answer_is_read_however_it_is_measured(body: bytes) -> None:
    def whole(taken: socket.socket, _: threading.Event) -> None:
        for byte in HEAD + body:
            taken.sendall(bytes([byte]))

    with server(whole) as address:
        assert Client(address).get("/health", 30) == {"sum": 3}
