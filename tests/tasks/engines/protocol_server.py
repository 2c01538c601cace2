"""A server that speaks what vLLM's does, over real HTTP, with a real tiny model and faults on demand.

It draws tokens from the request's seed alone, and scores them with the weights that it was given: enough to
tell whether the right policy answered which request.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from params.schema import Params
from tasks.policy.policy import Policy

_TORCH = threading.Lock()
LENGTH = 6


class Server:
    """One server on a free port of 127.0.0.1; ``stop`` and ``start`` are a death and a fresh start."""

    def __init__(self, base: Path, params: Params, key: str | None = None) -> None:
        self._base, self._params, self.key = base, params, key
        self.asked: Counter[str] = Counter()
        self.prompts: list[tuple[int, ...]] = []
        """Those of the answers that it gave, in order."""
        self.fault: Callable[[str, int], str | None] = lambda path, count: None
        """``fault(path, how often asked)``: ``reset``, ``hang``, a status such as ``503``, or ``stale``."""
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
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self, {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if body:  # nothing comes where the other side has hung up
                    server.answer(self, json.loads(body))

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        return Handler

    def answer(self, line: http.server.BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
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
            status, content = self._serve(line.path, body, fault == "stale")
        if self._stopped.is_set():
            return
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            line.send_response(status)
            line.send_header("Content-Length", str(len(data)))
            line.end_headers()
            line.wfile.write(data)

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
            with _TORCH:
                self.policy.restore(Path(body["lora_path"]).parent)
            self.adapters.append(body["lora_name"])
            return 200, "Success: LoRA adapter added."
        if path == "/v1/unload_lora_adapter" and self.hello["lora"]:
            with _TORCH:
                self.policy.restore(None)
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
