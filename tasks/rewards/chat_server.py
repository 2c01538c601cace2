"""A server of OpenAI's chat interface, asked for one reply. Its key goes into a header and nowhere else."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
import urllib.parse
from typing import Any

from params.errors import OstinatoError
from tasks.core.http_body import answer_of, read_body

MOST_BYTES = 1 << 22
BUSY = (408, 409, 425, 429)
LONGEST_WAIT = 60.0
SHOWN = 160


class Unanswered(OstinatoError):
    """No reply. One line that names the server and never the key."""

    def __init__(self, text: str, final: bool = False, after: float | None = None) -> None:
        super().__init__(text)
        self.final = final
        """Whether another try is of no use."""
        self.after = after
        """Seconds that the server asked to be left alone."""


def base_of(server: str) -> urllib.parse.SplitResult:
    """The parts of an address; raises ``ValueError`` for what is none, or holds a password."""
    parts = urllib.parse.urlsplit(server.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"task.reward.server: {server!r} is no address; expected http://HOST:PORT")
    if parts.username or parts.password:
        raise ValueError("task.reward.server: an address with a password; expected the key in key_from")
    _ = parts.port  # raises ValueError
    return parts


class ChatServer:
    """One server, from any number of threads, with a connection for each request. It follows no redirects."""

    def __init__(self, server: str, key: str | None, seconds: float) -> None:
        """``server``: without ``/chat/completions``; where it has no path, ``/v1`` is taken."""
        parts = base_of(server)
        self._name = f"{parts.scheme}://{parts.netloc}"
        secure = parts.scheme == "https"
        self._kind: Any = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._host, self._port = str(parts.hostname), parts.port
        self._path = f"{parts.path.rstrip('/') or '/v1'}/chat/completions"
        self._key, self._seconds = (key or "").strip(), seconds

    def reply(self, body: dict[str, Any]) -> str:
        """The text of the first choice; raises ``Unanswered``, also where it was cut for its length."""
        if self._key and not (self._key.isascii() and self._key.isprintable()):  # whose refusal would show it
            raise Unanswered(
                f"{self._name}: the key is no plain text; expected one line of ASCII", final=True
            )
        status, after, data = self._post(json.dumps(body))
        if status in BUSY or status >= 500:
            raise Unanswered(f"{self._name}: {status}: {self._said(data)}", after=after)
        if status != 200:
            said = "expected a key that it takes" if status in (401, 403) else self._said(data)
            raise Unanswered(f"{self._name}: {status}: {said}", final=True)
        try:
            choice = json.loads(data)["choices"][0]
            content, ended = choice["message"]["content"], choice.get("finish_reason")
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise Unanswered(f"{self._name}: no chat completion but {self._said(data)}", final=True) from None
        if ended == "length":
            raise Unanswered(f"{self._name}: a reply that was cut; expected a larger max_tokens", final=True)
        return content if isinstance(content, str) else ""

    def _post(self, body: str) -> tuple[int, float | None, bytes]:
        connection = self._kind(self._host, self._port, timeout=self._seconds)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            connection.connect()
            until = time.monotonic() + self._seconds
            connection.request("POST", self._path, body, headers)
            response = answer_of(connection, until)
            said = read_body(response, MOST_BYTES)
            return response.status, _seconds(response.headers.get("Retry-After")), said
        except ssl.SSLCertVerificationError as error:
            raise Unanswered(f"{self._name}: {error.verify_message}", final=True) from None
        except TimeoutError:
            raise Unanswered(f"{self._name}: no reply within {self._seconds:g} s") from None
        except socket.gaierror as error:
            raise Unanswered(f"{self._name}: {error.strerror}") from None
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(f"{self._name}: {str(error) or type(error).__name__}") from None
        finally:
            connection.close()

    def _said(self, data: bytes) -> str:
        text = " ".join(data.decode(errors="replace").split())
        return (text.replace(self._key, "***") if self._key else text)[:SHOWN] or "nothing"


def _seconds(text: str | None) -> float | None:
    return min(float(text), LONGEST_WAIT) if text and text.isdigit() else None
