"""One vLLM server behind HTTP: what is asked of it, and what must come back.

Tokens go in and come out by ``/inference/v1/generate``, each answer with the name of the weights that made
it; new weights, the prefix cache and that name go through the routes of vLLM's development mode.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.engines import weights_receiver as receiver
from tasks.engines.base import BASE, EngineFailure, Request, Response, Sampling
from tasks.engines.http import Client, Lost, Refused
from tasks.engines.weights_receiver import HELD
from tasks.engines.weights_sender import Sender

UNNAMED = "default"
"""What vLLM calls weights that nobody named: those it started with."""
GENERATE = "/inference/v1/generate"
HOW = "expected a server as `ostinato engine serve` starts it"
FORGET_SECONDS = 10.0


class ServerClient:
    """The server at one address. All methods raise ``Lost`` and ``EngineFailure``."""

    def __init__(
        self, client: Client, health_seconds: float, reply_seconds: float, sender: Sender | None = None
    ) -> None:
        """``sender``: of weights, to a server that sees no folder of ours."""
        self._sender = sender
        self.address = client.address
        self._client = client
        self._health = health_seconds
        self._reply = reply_seconds
        self._adapter: str | None = None
        self._adapters = 0

    def healthy(self) -> None:
        """Return if the server says so in time."""
        self._client.get("/health", self._health)

    def holds(self) -> str:
        """The name of the weights that it holds."""
        said = self._client.get("/weight_info", self._health)
        with self._form("/weight_info"):
            return str(said["weight_version"])

    def hello(self) -> dict[str, Any]:
        """How it was started: ``dtype``, ``logprobs_mode``, ``max_model_len``, ``max_logprobs``, ``lora``."""
        self.healthy()
        said = self._call("ostinato_hello", {})
        if not isinstance(said, dict):
            raise EngineFailure(f"server {self.address}: says {said!r} of itself; {HOW}")
        return said

    def take(self, folder: Path, name: str) -> None:
        """Sample from this Hugging Face folder from now on, and call it ``name``."""
        self._call("ostinato_reload", {"weights": self._brought(folder, name)})
        self._drop_adapter()
        self._named(name)

    def adapt(self, adapter: Path | None, name: str) -> None:
        """Sample from the base model with this LoRA adapter from now on, or without any; call it ``name``.

        An adapter's own name is never used again: vLLM goes by names and would keep the old one.
        """
        self._drop_adapter()
        if adapter is not None:
            self._adapters += 1
            called = f"{name[:24]}-{time.time_ns():x}-{self._adapters}"
            body = {"lora_name": called, "lora_path": self._brought(adapter, name)}
            self._development("/v1/load_lora_adapter", body, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1")
            self._adapter = called
        self._named(name)

    def forget(self) -> None:
        """Drop what the prefix cache holds: it decides how sums are rounded."""
        until = time.monotonic() + FORGET_SECONDS
        while not self._emptied():
            if time.monotonic() > until:
                raise Lost(f"{self.address}: busy with somebody else's requests")
            time.sleep(0.1)

    def score(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[float]:
        """Log-probabilities of each token of ``responses[i]`` after ``prompts[i]`` at temperature 1, end to
        end."""
        found: list[float] = []
        for prompt, response in zip(prompts, responses, strict=True):
            answer = self._generate([*prompt, *response], {"max_tokens": 1, "prompt_logprobs": 0})
            with self._form(GENERATE):
                entries = answer["prompt_logprobs"][len(prompt) :]
                found += [float(entry[str(t)]["logprob"]) for t, entry in zip(response, entries, strict=True)]
        return found

    def sample(
        self, request: Request, sampling: Sampling, weights: str, number: int | None = None
    ) -> Response:
        """One response, by the weights of this name and no others. ``number``: what ``abort`` calls it."""
        answer = self._generate(
            request.prompt_ids,
            {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "max_tokens": request.most(sampling),
                "seed": request.seed,
                "stop_token_ids": list(sampling.stop_ids),
                "ignore_eos": True,  # the stop tokens are the caller's
                "logprobs": sampling.top and sampling.top + 1,  # the sampled one takes a place among them
            },
            number,
        )
        with self._form(GENERATE):
            choice = answer["choices"][0]
            self._check_weights(choice["weight_versions"], weights)
            made = _response(choice, sampling.top)
        if made.finish_reason == "abort":
            raise Lost(f"{self.address}: gave a response up")
        whole = made.complete(sampling) and len(made.token_ids) <= request.most(sampling)
        if made.finish_reason not in ("stop", "length") or not whole:
            raise EngineFailure(
                f"server {self.address}: a response ended by {made.finish_reason} with {len(made.token_ids)} "
                f"tokens, {len(made.logp)} log-probabilities and {len(made.top_ids)} of likely tokens, "
                f"{sampling.top} a token; expected at most {request.most(sampling)} tokens with as many "
                "log-probabilities"
            )
        return made

    def abort(self, number: int | None = None) -> None:
        """End the request of this number, which the server then drops, or every exchange under way."""
        self._client.abort(number)

    def _generate(self, ids: Sequence[int], sampling: dict[str, Any], number: int | None = None) -> Any:
        asked = {"detokenize": False, **sampling}
        body: dict[str, Any] = {"token_ids": list(ids), "stream": False, "sampling_params": asked}
        if self._adapter is not None:
            body["model"] = self._adapter
        try:
            return self._client.post(GENERATE, body, self._reply, number)
        except Refused as refusal:
            if refusal.status in (403, 404) and self._adapter is None:
                raise _unlike(self.address, GENERATE, "--enable-scale-out") from refusal
            raise

    def _check_weights(self, spans: list[dict[str, Any]] | None, weights: str) -> None:
        """Every token must be of these weights."""
        if not spans:
            raise EngineFailure(f"server {self.address}: names no weights; expected vLLM 0.32 or newer")
        for span in spans:
            if span["version"] == UNNAMED:
                raise Lost(f"{self.address}: has started anew and holds no policy")
            if span["version"] != weights:
                raise EngineFailure(
                    f"server {self.address}: answers with the weights {span['version'][:24]}; expected "
                    f"{weights[:24]}: another run gives it weights too"
                )

    def _brought(self, folder: Path, name: str) -> str:
        """Where the server finds this folder."""
        if self._sender is None:
            return str(folder.absolute())
        try:
            if name == BASE:
                self._client.post(receiver.ROUTE, {"files": []}, self._health)  # whether it has the route
                return HELD + receiver.BASE
            return HELD + self._sender.send(self._client, folder, name, self._health)
        except Refused as refusal:
            if refusal.status == 404 and refusal.reason == "Not Found":
                flag = "--middleware tasks.engines.vllm_guard.Guard"
                raise _unlike(self.address, receiver.ROUTE, flag) from refusal
            raise

    def _named(self, name: str) -> None:
        self._development("/update_weight_version", {"new_version": name})
        self.forget()

    def _drop_adapter(self) -> None:
        if self._adapter is not None:
            dropped, self._adapter = self._adapter, None
            try:
                self._client.post("/v1/unload_lora_adapter", {"lora_name": dropped}, self._reply)
            except Refused as refusal:
                if refusal.status != 404:  # it has started anew since
                    raise

    def _call(self, method: str, arguments: dict[str, str]) -> Any:
        """Call a method of ``vllm_extension.Extension`` in the first worker of each engine and all others."""
        try:
            asked = {"method": method, "kwargs": arguments}
            said = self._development("/collective_rpc", asked, seconds=self._reply)
        except Lost as lost:
            if "is not implemented" in str(lost):
                flag = "--worker-extension-cls tasks.engines.vllm_extension.Extension"
                raise _unlike(self.address, method, flag) from lost
            if "cannot be read on the server's machine" in str(lost):
                words = str(lost).partition(" failed: ")[2]
                raise EngineFailure(
                    f"server {self.address}: {words}; expected a folder that both machines see, such as "
                    "engine.weights_folder names, or engine.weights=http"
                ) from lost
            raise
        with self._form("/collective_rpc"):
            return said["results"][0]

    def _emptied(self) -> bool:
        said = self._development("/reset_prefix_cache", {})
        with self._form("/reset_prefix_cache"):
            return bool(said["success"])

    @contextmanager
    def _form(self, path: str) -> Iterator[None]:
        """Inside the block what an answer of the server's lacks, or is no number in it, is its fault."""
        try:
            yield
        except (LookupError, TypeError, ValueError) as error:
            raise Lost(
                f"{self.address}: {path} answered in another form than vLLM's "
                f"({type(error).__name__}: {error}); {HOW}"
            ) from None

    def _development(
        self,
        path: str,
        body: dict[str, Any],
        flag: str = "VLLM_SERVER_DEV_MODE=1",
        seconds: float | None = None,
    ) -> Any:
        try:
            return self._client.post(path, body, seconds or self._health)
        except Refused as refusal:
            if refusal.status == 404 and refusal.reason == "Not Found":
                raise _unlike(self.address, path, flag) from refusal
            raise


def _unlike(address: str, what: str, flag: str) -> EngineFailure:
    return EngineFailure(f"server {address}: has no {what}; {HOW}, with {flag}")


def _response(choice: dict[str, Any], top: int) -> Response:
    """One of an answer's choices, with the ``top`` likeliest tokens of each place."""
    places = choice["logprobs"]["content"]
    logp = tuple(float(place["logprob"]) for place in places)
    if not all(map(math.isfinite, logp)):
        raise ValueError(f"log-probabilities {logp[:4]}, not all of them numbers")
    likely = [
        (int(entry["token_id"]), float(entry["logprob"]))
        for place in places
        for entry in sorted(place["top_logprobs"], key=lambda entry: int(entry["rank"]))
        if entry["rank"] <= top
    ]
    return Response(
        token_ids=tuple(map(int, choice["token_ids"])),
        logp=logp,
        finish_reason=choice["finish_reason"],
        top_ids=tuple(token for token, _ in likely),
        top_logp=tuple(logp for _, logp in likely),
    )
