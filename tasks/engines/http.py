"""JSON over HTTP with one address. Every wait ends; what went wrong is one line that names the address."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from params.errors import OstinatoError
from tasks.core.http_body import answer_of, read_body
from tasks.engines.base import EngineFailure

CONNECT_SECONDS = 10.0
KEEP_ALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""A machine that vanished is noticed after half a minute, however long an answer may take."""
MOST_BYTES = 1 << 30
"""Of an answer; what is longer is cut, and no JSON."""
LONGEST_REASON = 240
OCTETS = "application/octet-stream"
PLAIN = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
"""What vLLM answers with a sentence."""


class Lost(OstinatoError):
    """The server cannot be reached, did not answer in time, or failed. Another one may do."""


class Refused(EngineFailure):
    """The server answered that it will not do this (a 4xx)."""

    def __init__(self, address: str, status: int, reason: str) -> None:
        super().__init__(f"server {address}: {status}: {reason}")
        self.status = status
        self.reason = reason


class Client:
    """Asks one address, from any number of threads, with a connection for each question."""

    def __init__(self, address: str, key: str | None = None) -> None:
        """``address``: ``http://HOST:PORT``; ``key``: sent as a bearer token, and nowhere else."""
        self.address = address
        parts = urllib.parse.urlsplit(address)
        secure = parts.scheme == "https"
        self._kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._host, self._port = str(parts.hostname), parts.port
        self._headers = {"Content-Type": "application/json", "Connection": "close"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._open: dict[socket.socket, int | None] = {}
        self._lock = threading.Lock()

    def get(self, path: str, seconds: float) -> Any:
        """What is there; raises ``Lost`` or ``Refused``."""
        return self._ask("GET", path, None, seconds)

    def post(self, path: str, body: dict[str, Any], seconds: float, number: int | None = None) -> Any:
        """The answer to ``body``; raises ``Lost`` or ``Refused``. ``number``: what ``abort`` calls it."""
        return self._ask("POST", path, json.dumps(body), seconds, number)

    def send(self, path: str, data: bytes, headers: Mapping[str, str], seconds: float) -> Any:
        """The answer to ``data`` as it is; raises ``Lost`` or ``Refused``."""
        return self._ask("POST", path, data, seconds, headers={**headers, "Content-Type": OCTETS})

    def abort(self, number: int | None = None) -> None:
        """End the exchange of this number, or every one under way: whoever waits for an answer gets
        ``Lost``."""
        with self._lock:
            for sock in [sock for sock, own in self._open.items() if number in (None, own)]:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _ask(
        self,
        method: str,
        path: str,
        body: str | bytes | None,
        seconds: float,
        number: int | None = None,
        headers: Mapping[str, str] = {},
    ) -> Any:
        connection = self._kind(self._host, self._port, timeout=min(seconds, CONNECT_SECONDS))
        try:
            connection.connect()
            with self._registered(connection.sock, seconds, number):
                until = time.monotonic() + seconds
                connection.request(method, path, body, {**self._headers, **headers})
                answer = answer_of(connection, until)
                return self._content(path, answer.status, read_body(answer, MOST_BYTES))
        except TimeoutError:
            raise Lost(f"{self.address}: no answer from {path} in {seconds:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            words = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Lost(f"{self.address}: {words.lower()}") from None
        finally:
            connection.close()

    @contextlib.contextmanager
    def _registered(self, sock: socket.socket, seconds: float, number: int | None) -> Iterator[None]:
        sock.settimeout(seconds)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEP_ALIVE:
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        with self._lock:
            self._open[sock] = number
        try:
            yield
        finally:
            with self._lock:
                del self._open[sock]

    def _content(self, path: str, status: int, data: bytes) -> Any:
        try:
            content = json.loads(data) if data else None
        except (ValueError, RecursionError):
            content = data.decode(errors="replace")
            if status == http.client.OK and path not in PLAIN:
                raise Lost(f"{self.address}: {path} answered something other than JSON") from None
        if status == http.client.OK:
            return content
        reason = _reason(content)
        if status >= http.client.INTERNAL_SERVER_ERROR or status == http.client.TOO_MANY_REQUESTS:
            raise Lost(f"{self.address}: {path} answered {status}: {reason}")
        raise Refused(self.address, status, reason)


def _reason(content: Any) -> str:
    """What an error's body says, as one line of bearable length."""
    for key in ("error", "message", "detail"):
        if isinstance(content, dict) and key in content:
            content = content[key]
    return " ".join(str(content).split())[:LONGEST_REASON]
