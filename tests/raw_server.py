"""A server that answers in bytes of a test's choosing."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
Say = Callable[[socket.socket, threading.Event], None]


@contextlib.contextmanager
def server(say: Say) -> Iterator[str]:
    """The address of one that answers the first question by ``say``, told when the test is over."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            taken, _ = listener.accept()
            with taken, contextlib.suppress(OSError):
                taken.recv(65536)
                say(taken, over)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        thread.join()


def drip(taken: socket.socket, over: threading.Event) -> None:
    """A long answer, a byte at a time, until the test is over."""
    taken.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
    while not over.wait(0.05):
        taken.sendall(b" ")


def drip_head(taken: socket.socket, over: threading.Event) -> None:
    """An answer whose head goes on, a byte at a time, until the test is over."""
    taken.sendall(HEAD + b"X-More: ")
    while not over.wait(0.05):
        taken.sendall(b"x")


def deep(taken: socket.socket, over: threading.Event) -> None:
    """JSON that no parser goes to the bottom of."""
    body = b"[" * 100_000 + b"]" * 100_000
    taken.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    over.wait()  # hung up on with a question half read, it would be reset
