"""A body over HTTP in bounded time."""

from __future__ import annotations

import http.client
import socket
import time

PIECE = 1 << 20


def read_body(
    answer: http.client.HTTPResponse, sock: socket.socket, until: float, most: int | None = None
) -> bytes:
    """All of it, or its first ``most`` bytes, by a moment of ``time.monotonic``.

    A socket's own timeout begins anew with each byte; a later Python closes it with the last one. Raises
    ``TimeoutError``, and what ``http.client`` does.
    """
    found = bytearray()
    while not answer.isclosed() and (most is None or len(found) < most):
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        part = answer.read1(PIECE if most is None else min(PIECE, most - len(found)))
        if part:
            found += part
        elif answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        else:
            break
    return bytes(found)
