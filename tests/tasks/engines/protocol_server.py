"""A server that speaks what vLLM's does, over real HTTP, with a real tiny model and faults on demand.

It draws tokens from the request's seed alone, and scores them with the weights that it was given: enough to
tell whether the right policy answered which request.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from params.schema import Params
from tasks.engines.weights_receiver import Receiver
from tasks.engines.weights_shelf import Shelf
from tasks.policy.policy import Policy

_TORCH = threading.Lock()
LENGTH = 6


class Server:
    """One server on a free port of 127.0.0.1; ``stop`` and ``start`` are a death and a fresh start."""

    def __init__(self, base: Path, params: Params, key: str | None = None, shelf: Path | None = None) -> None:
        self._base, self._params, self.key = base, params, key
        self.asked: Counter[str] = Counter()
        self.prompts: list[tuple[int, ...]] = []
        """Those of the answers that it gave, in order."""
        self.fault: Callable[[str, int], str | None] = lambda path, count: None
        """``fault(path, how often asked)``: ``reset``, ``hang``, a status such as ``503``, ``stale``, or
        ``harm`` for a byte of what was sent."""
        self.lie: Callable[[str, Any], Any] = lambda path, content: content
        """``lie(path, what is right)``: what it answers instead."""
        self.shelf = shelf
        """A folder for weights that are sent to it; ``None``: it reads those of others."""
        self.adapters: list[str] = []
        """Names of the adapters that it was given, in order."""
        self.hello = {
            "dtype": "float32",
            "logprobs_mode": "processed_logprobs",
            "max_model_len": 4096,
            "max_logprobs": 20,
            "lora": False,
        }
        self._port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self.policy = Policy.open(self._base, self._params)
        self.version = "default"
        self._stopped = threading.Event()
        self.receives_anew()
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def receives_anew(self) -> None:
        """Nothing that was sent to it is left."""
        shelf = Shelf(Path(tempfile.mkdtemp(dir=self.shelf)), 1 << 24) if self.shelf else None
        self._receiver = shelf and Receiver(self._app, shelf, ["serve", "--model", str(self._base)])

    def stop(self) -> None:
        self._stopped.set()
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self, b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if body:  # nothing comes where the other side has hung up
                    server.answer(self, body)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        return Handler

    def answer(self, line: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        """Do what is asked, or what the fault says."""
        self.asked[line.path] += 1
        fault = self.fault(line.path, self.asked[line.path])
        if fault == "hang":
            self._stopped.wait(20.0)
        if fault in ("hang", "reset") or self._stopped.is_set():
            line.close_connection = True
            return
        status, content = (
            (int(fault), {"error": {"message": "a fault"}}) if fault and fault.isdigit() else (0, {})
        )
        if line.path != "/health" and self.key and line.headers["Authorization"] != f"Bearer {self.key}":
            status, content = 401, {"error": "Unauthorized"}
        if not status:
            if fault == "harm":
                body = body[:-1] + bytes([body[-1] ^ 1])
            if self._receiver and line.command == "POST":
                status, content = self._receive(line, body)
            else:
                status, content = self._serve(line.path, json.loads(body or b"{}"), fault == "stale")
        if self._stopped.is_set():
            return
        content = self.lie(line.path, content)
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            line.send_response(status)
            line.send_header("Content-Length", str(len(data)))
            line.end_headers()
            line.wfile.write(data)

    def _receive(self, line: http.server.BaseHTTPRequestHandler, body: bytes) -> tuple[int, Any]:
        """As vLLM's server, with our middleware before it."""
        headers = [(name.lower().encode(), value.encode()) for name, value in line.headers.items()]
        said: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            said.append(message)

        scope = {"type": "http", "method": "POST", "path": line.path, "headers": headers}
        asyncio.run(self._receiver(scope, receive, send))  # type: ignore[misc]
        return said[0]["status"], said[1]["body"].decode()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        status, content = await asyncio.to_thread(self._serve, scope["path"], body, False)
        data = content if isinstance(content, str) else json.dumps(content)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": data.encode()})

    def _serve(self, path: str, body: dict[str, Any], stale: bool) -> tuple[int, Any]:
        if path == "/health":
            return 200, None
        if path == "/weight_info":
            return 200, {"weight_version": self.version}
        if path == "/reset_prefix_cache":
            return 200, {"success": True}
        if path == "/update_weight_version":
            self.version = body["new_version"]
            return 200, {"success": True}
        if path == "/collective_rpc":
            return 200, {"results": [self._call(body["method"], body["kwargs"], stale)]}
        if path == "/v1/load_lora_adapter" and self.hello["lora"]:
            with _TORCH, tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "adapter").symlink_to(body["lora_path"])
                self.policy.weights.read(Path(folder))
            self.adapters.append(body["lora_name"])
            return 200, "Success: LoRA adapter added."
        if path == "/v1/unload_lora_adapter" and self.hello["lora"]:
            with _TORCH:
                self.policy.weights.reset()
            return 200, "Success: LoRA adapter removed."
        if path == "/inference/v1/generate":
            if body.get("model") not in (None, *self.adapters[-1:]):
                return 404, {"error": {"message": f"The model {body['model']} does not exist."}}
            return 200, self._generate(body)
        return 404, {"detail": "Not Found"}

    def _call(self, method: str, arguments: dict[str, str], stale: bool) -> Any:
        if method == "ostinato_hello":
            return self.hello
        assert method == "ostinato_reload"
        if not stale:
            with _TORCH:
                self.policy = Policy.open(Path(arguments["weights"]), self._params)
        return None

    def _generate(self, body: dict[str, Any]) -> dict[str, Any]:
        asked, prompt = body["sampling_params"], tuple(body["token_ids"])
        if "prompt_logprobs" in asked:
            logp = self._score(prompt[:1], prompt[1:], 1.0)
            entries = [{str(t): {"logprob": p}} for t, p in zip(prompt[1:], logp, strict=True)]
            return {"prompt_logprobs": [None, *entries], "choices": []}
        time.sleep(0.01)
        generator = torch.Generator().manual_seed(asked["seed"])
        tokens = torch.randint(4, 90, (LENGTH,), generator=generator).tolist()
        logp = self._score(prompt, tuple(tokens), asked["temperature"])
        self.prompts.append(prompt)
        places = [
            {"token_id": t, "logprob": p, "rank": 1, "top_logprobs": []}
            for t, p in zip(tokens, logp, strict=True)
        ]
        spans = [{"version": self.version, "start": 0, "end": LENGTH}]
        choice = {"token_ids": tokens, "finish_reason": "length", "weight_versions": spans}
        return {"choices": [{**choice, "logprobs": {"content": places}}]}

    def _score(self, prompt: tuple[int, ...], response: tuple[int, ...], temperature: float) -> list[float]:
        with _TORCH:
            return self.policy.score([prompt], [response], temperature).logp.tolist()
