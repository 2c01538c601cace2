"""A loopback server of OpenAI's chat interface that does what the answer in the question says."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class JudgeServer:
    """What it was asked."""

    address: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_at_once: int = 0
    seconds: float = 0.0
    """How long it takes over a reply."""
    always: str | None = None
    """What it says to everything."""
    _times: Counter[str] = field(default_factory=Counter)
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, body: dict[str, Any], key: str | None) -> tuple[int, dict[str, str], bytes]:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            self.asked.append(body)
            self.keys.append(key)
            said = body["messages"][-1]["content"].rpartition("ANSWER:")[2].strip()
            self._times[said] += 1
            times = self._times[said]
        time.sleep(self.seconds)
        with self._lock:
            self._now -= 1
        verb, _, rest = (self.always or said).partition(" ")
        if verb == "busy" and times <= int(rest):
            return 429, {"Retry-After": "0"}, b"slow down"
        if verb == "broken":
            return 500, {}, b"out of order"
        if verb == "refused":
            return 401, {}, f"Incorrect API key provided: {key}".encode()
        if verb == "unknown":
            return 404, {}, f"no such model; you sent {key}".encode()
        if verb == "moved":
            return 302, {"Location": "http://127.0.0.1:1/v1/chat/completions"}, b""
        if verb == "html":
            return 200, {}, b"<html>hello</html>"
        content = {"right": "It agrees. Yes.", "wrong": "yes and no... No", "busy": "yes"}.get(verb, rest)
        choice = {"message": {"content": content}, "finish_reason": "length" if verb == "cut" else "stop"}
        return 200, {}, json.dumps({"choices": [choice]}).encode()


@contextmanager
def judge_server() -> Iterator[JudgeServer]:
    """One that runs."""
    found = JudgeServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions"
            status, headers, data = found.reply(body, self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *said: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
