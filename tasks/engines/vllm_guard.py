"""The key of a vLLM server, asked for on every route: vLLM guards ``/v1`` and ``/inference`` alone, and
whoever reaches ``/collective_rpc`` puts in other weights.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tasks.engines.weights_receiver import Receiver

KEY = "OSTINATO_ENGINE_KEY"
"""The environment variable that holds the servers' key, where they are started and where they are used."""

App = Callable[..., Awaitable[None]]


class Guard:
    """ASGI middleware, for ``--middleware``: 401 without the key, if there is one. Behind it are the routes
    of ``weights_receiver`` beside the server's."""

    def __init__(self, app: App) -> None:
        self._app = Receiver(app)
        key = os.environ.get(KEY)
        self._expected = f"Bearer {key}".encode() if key else None

    async def __call__(self, scope: MutableMapping[str, Any], receive: App, send: App) -> None:
        """Hand on a request that has the key."""
        if self._allows(scope):
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})

    def _allows(self, scope: MutableMapping[str, Any]) -> bool:
        if scope["type"] != "http" or self._expected is None or scope["path"] == "/health":
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return secrets.compare_digest(given, self._expected)
