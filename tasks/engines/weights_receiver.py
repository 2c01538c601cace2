"""Routes beside vLLM's by which a trainer sends weights to a server with which it shares no folder.

``POST /ostinato/weights`` announces files, or none, and tells which bytes are here; ``/NAME/FILE/START``
behind it brings a part of one. vLLM's routes for new weights then take ``held:NAME`` instead of a folder, or
``held:base`` for the weights that the server was started with. All of it stands behind the guard's key.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from tasks.engines import weights_shelf
from tasks.engines.weights_shelf import PART_BYTES, Refusal, Shelf

ROUTE = "/ostinato/weights"
HELD = "held:"
BASE = "base"
DIGEST_HEADER = "x-content-sha256"
LOADS = ("/collective_rpc", "/v1/load_lora_adapter")
"""vLLM's routes that name a folder."""
BODY_BYTES = 1 << 20
"""Of an announcement, or of what names a folder, at most."""

App = Callable[..., Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]
Scope = MutableMapping[str, Any]


class Receiver:
    """ASGI middleware."""

    def __init__(self, app: App, shelf: Shelf | None = None, arguments: Sequence[str] = ()) -> None:
        """``shelf``: ``None``: a new one, made when it is first needed; ``arguments``: those that the server
        was started with, none: this process's."""
        self._app, self._made = app, shelf
        self._arguments = list(arguments or sys.argv)
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: App) -> None:
        """Do what is for us, and hand on the rest."""
        path = scope["path"] if scope["type"] == "http" and scope["method"] == "POST" else ""
        try:
            if path == ROUTE or path.startswith(f"{ROUTE}/"):
                status, content = 200, await self._take(path, scope, receive)
            elif path in LOADS:
                scope, receive = await self._resolved(scope, receive)
                await self._app(scope, receive, send)
                return
            else:
                await self._app(scope, receive, send)
                return
        except Refusal as refusal:
            status, content = refusal.status, {"error": str(refusal)}
        data = json.dumps(content).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    def _shelf(self) -> Shelf:
        with self._lock:
            self._made = self._made or weights_shelf.opened()
            return self._made

    async def _take(self, path: str, scope: Scope, receive: Receive) -> Any:
        parts = path.removeprefix(ROUTE).strip("/").split("/")
        if parts == [""]:
            files = weights_shelf.announced(_json(await _body(receive, BODY_BYTES)))
            missing = await asyncio.to_thread(lambda: self._shelf().begin(files) if files else {})
            return {"name": weights_shelf.name_of(files), "missing": missing}
        if len(parts) != 3 or not parts[2].isdecimal() or len(parts[2]) > 18:
            raise Refusal(404, f"no such route; expected {ROUTE}/NAME/FILE/START")
        digest = dict(scope["headers"]).get(DIGEST_HEADER.encode(), b"").decode("ascii", "replace")
        data = await _body(receive, PART_BYTES)
        name, file, start = parts[0], parts[1], int(parts[2])
        return {"held": await asyncio.to_thread(lambda: self._shelf().add(name, file, start, data, digest))}

    async def _resolved(self, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
        """The request with a folder of ours where it names weights that are held."""
        data = await _body(receive, BODY_BYTES)
        asked = _json(data) if HELD.encode() in data else None
        arguments = asked.get("kwargs") if isinstance(asked, dict) else None
        for holder, key in ((asked, "lora_path"), (arguments, "weights")):
            if isinstance(holder, dict) and str(holder.get(key)).startswith(HELD):
                holder[key] = str(self._folder(holder[key].removeprefix(HELD)))
                data = json.dumps(asked).encode()
        sent = False

        async def again() -> Any:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": data, "more_body": False}

        kept = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        return {**scope, "headers": [*kept, (b"content-length", str(len(data)).encode())]}, again

    def _folder(self, name: str) -> Path:
        if name != BASE:
            return self._shelf().folder(name)
        for place, argument in enumerate(self._arguments):
            flag, given, value = argument.partition("=")
            if flag == "--model" and (given or self._arguments[place + 1 :]):
                return Path(value if given else self._arguments[place + 1]).absolute()
        raise Refusal(400, "was started without --model; expected a folder there")


async def _body(receive: Receive, most: int) -> bytes:
    """All of a request's body."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Refusal(400, "broke off")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise Refusal(413, f"more than {most} bytes in one request; expected at most as many")
        more = message.get("more_body", False)
    return b"".join(parts)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise Refusal(400, "no JSON; expected some") from None
