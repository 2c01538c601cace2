"""An answer over HTTP, its head and its body, in bounded time."""

from __future__ import annotations

import http.client
import io
import socket
import time
from functools import partial
from typing import Any

PIECE = 1 << 20


def answer_of(connection: http.client.HTTPConnection, until: float) -> http.client.HTTPResponse:
    """The answer to what was asked, of which every byte comes by a moment of ``time.monotonic``.

    A socket's own timeout begins anew with each byte. Raises ``TimeoutError``, here and where the body is
    read, and what ``http.client`` does.
    """
    anyhow: Any = connection  # whose response need not be a class
    anyhow.response_class = partial(_Answer, until=until)
    return connection.getresponse()


def read_body(answer: http.client.HTTPResponse, most: int | None = None) -> bytes:
    """All of it, or its first ``most`` bytes.

    Raises what ``http.client`` does. A later Python closes an answer with its last byte.
    """
    found = bytearray()
    while not answer.isclosed() and (most is None or len(found) < most):
        part = answer.read1(PIECE if most is None else min(PIECE, most - len(found)))
        if part:
            found += part
        elif answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        else:
            break
    return bytes(found)


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, until: float, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp = io.BufferedReader(_Timed(sock, self.fp, until))


class _Timed(io.RawIOBase):
    """What a socket says by a moment; raises ``TimeoutError`` after it."""

    def __init__(self, sock: socket.socket, said: io.BufferedReader, until: float) -> None:
        self._sock, self._said, self._until = sock, said, until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._said.raw.readinto(buffer)

    def close(self) -> None:
        self._said.close()
        super().close()
