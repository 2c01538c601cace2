"""vLLM, seen from a stage: a child process that lives as long as the run and takes new weights by path."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from params.schema import Params
from tasks.core.device import start_timeout
from tasks.core.json_process import JsonProcess, ProcessFailure
from tasks.engines import float8, probe, vllm_options
from tasks.engines.base import (
    BASE,
    IDLE_SECONDS,
    POLL_SECONDS,
    EngineFailure,
    More,
    Request,
    Response,
    Sampling,
    identity,
    ignore,
    no_more,
)
from tasks.engines.vllm_build import on_gpu
from tasks.policy.policy import Policy, release_gpu


class Vllm:
    """Holds one base model, and one policy at a time, in a process of its own."""

    def __init__(self, base: Path, policy: Callable[[], Policy], params: Params, scratch: Path) -> None:
        """Start the process, and open ``policy``, the trainer's, while it starts; on a GPU before, since vLLM
        counts what others take of its memory meanwhile as its own."""
        self._base = base
        self._params = params
        self._scratch = scratch
        self._adapts = vllm_options.adapts(base, params)
        self._start_seconds = start_timeout(params.engine, on_gpu())
        self._adapters = 0
        self._held: str | None = None
        self._asleep = False
        self._before = (torch.empty(0), torch.empty(0))  # scores of the probe: the engine's, the trainer's
        self._adapted: Sequence[str] = ()
        if self._adapts or on_gpu():
            self._adapted = policy().weights.layer_names()
        self._start()
        with contextlib.ExitStack() as otherwise:
            otherwise.callback(self._process.close)
            self._policy = policy()
            self._rounded = float8.Rounded(self._policy, params) if params.engine.dtype == "float8" else None
            self._probe = probe.Probe(self._policy.tokenizer, params.model.context)
            otherwise.pop_all()

    def load(self, policy: Path | None) -> None:
        """See ``Engine``. On CPU the weights are merged; on a GPU a LoRA adapter is handed over as it is.

        Weights in float8 are merged and rounded here, and the trainer's scores are those of the same ones.
        """
        held = identity(policy, self._rounded is not None)
        if self._asleep and self._process.alive:
            self._wake()
        if held == self._held and self._process.alive and not self._asleep:
            self._policy.restore(policy)
            return
        if self._held is None or not self._process.alive:
            self._await_base()
        if held != self._held or self._asleep:
            self._policy.restore(policy)
            if self._rounded is not None:
                self._rounded.take(held)
            with self._hand_over(policy, held):
                trainer = self._probe.scores(self._rounded or self._policy)
            engine = self._scores()
            probe.check(engine, trainer, self._params.engine.probe_tolerance)
            probe.check_changed(engine, self._before[0], trainer, self._before[1])
            self._held, self._before = held, (engine, trainer)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        tell: Callable[[int, int], None] = ignore,
        finished: Callable[[int, Response], None] = ignore,
        more: More = no_more,
    ) -> list[Response]:
        """See ``Engine``."""
        going, patience = more is not no_more, self._params.engine.reply_timeout
        asking = {
            "do": "generate",
            "temperature": sampling.temperature,
            "stop_ids": sampling.stop_ids,
            "top": sampling.top,
            "entropy": sampling.entropy,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "more": going,
        }
        self._send({**asking, **_lines(requests, sampling)}, patience)
        done: dict[int, Response] = {}
        count, heard = len(requests), time.monotonic()
        while True:
            if going:
                idle = len(done) == count
                further = more(IDLE_SECONDS if idle else 0.0)
                going, count = further is not None, count + len(further or ())
                if further or not going:
                    self._send({**_lines(further or (), sampling), "last": not going}, patience)
                heard = time.monotonic() if idle else heard
                if time.monotonic() - heard < patience and not self._process.ready(POLL_SECONDS):
                    continue
            message, heard = self._receive(patience), time.monotonic()
            if "ok" in message:
                break
            if "index" in message:
                index = message["index"]
                done[index] = _response(message, sampling)
                finished(index, done[index])
            else:
                tell(len(done), message["tokens"])
        if len(done) != count:
            raise EngineFailure(f"vllm: {len(done)} of {count} responses came back")
        tell(len(done), sum(len(response.token_ids) for response in done.values()))
        return [done[index] for index in range(count)]

    def sleep(self) -> None:
        """See ``Engine``. Where whole weights are handed over they are dropped, since others come; the base
        weights under an adapter go to the host's memory."""
        asked = self._params.engine.sleep and on_gpu()
        if asked and not self._asleep and self._held is not None and self._process.alive:
            self._ask("sleep", level=1 if self._adapts else 2)
            self._asleep = True

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _wake(self) -> None:
        """Have the memory of the trainer's last passes given to the engine. Weights that were dropped come
        with the next hand-over; the others must score the probe as they did before."""
        release_gpu()
        if self._adapts:
            self._ask("wake", weights=None)
            self._asleep = False
            probe.check(self._scores(), self._before[0], self._params.engine.probe_tolerance)

    def _start(self) -> None:
        self._asleep = False
        release_gpu()
        self._process = JsonProcess(
            "vllm",
            [sys.executable, "-m", "tasks.engines.vllm_worker", str(os.getpid())],
            vllm_options.environment(self._params),
            self._scratch / "vllm.log",
        )
        architectures = json.loads((self._base / "config.json").read_text())["architectures"]
        options = vllm_options.arguments(self._base, self._params, self._adapted)
        opening = {"do": "open", "options": options, "architectures": architectures}
        self._send(opening, self._start_seconds)

    def _await_base(self) -> None:
        """Wait until the process serves the base model as it is; start another where it has died since."""
        if not self._process.alive and self._held is not None:
            self._process.close(0.0)
            self._start()
        self._held = None
        self._reply(self._start_seconds)
        self._policy.restore(None)
        self._before = (self._scores(), self._probe.scores(self._policy))
        probe.check(*self._before, self._params.engine.probe_tolerance)
        self._held = BASE

    @contextlib.contextmanager
    def _hand_over(self, policy: Path | None, held: str) -> Iterator[None]:
        """The engine takes a policy while the block runs, and holds it after."""
        asked: dict[str, Any]
        with contextlib.ExitStack() as after:
            if self._adapts:
                self._adapters += 1
                adapter = None if policy is None else str((policy / "adapter").absolute())
                name = f"policy-{held[:8]}"
                asked = {"do": "adapt", "adapter": adapter, "name": name, "number": self._adapters}
            else:
                folder = self._base
                if policy is not None or self._rounded is not None:
                    folder = self._scratch / f"merged-{held[:8]}"
                    after.callback(shutil.rmtree, folder, ignore_errors=True)
                    (self._rounded or self._policy).merged(folder)
                asked = {"do": "wake" if self._asleep else "reload", "weights": str(folder.absolute())}
            patience = self._params.engine.reply_timeout
            self._send(asked, patience)
            with contextlib.ExitStack() as otherwise:
                otherwise.callback(self._process.close, 0.0)  # whose reply would be taken for another's
                yield
                otherwise.pop_all()
            self._reply(patience)
            self._asleep = False

    def _scores(self) -> Tensor:
        """The engine's, of the probe."""
        scores = self._ask("score", prompts=self._probe.prompts, responses=self._probe.responses)
        return torch.tensor([logp for response in scores for logp in response])

    def _ask(self, do: str, **arguments: Any) -> Any:
        self._send({"do": do, **arguments}, self._params.engine.reply_timeout)
        return self._reply(self._params.engine.reply_timeout)

    def _reply(self, seconds: float) -> Any:
        message = self._receive(seconds)
        if "ok" not in message:
            raise EngineFailure(f"vllm: expected a reply, got {message}")
        return message["ok"]

    def _send(self, message: dict[str, Any], seconds: float) -> None:
        try:
            self._process.send(message, seconds)
        except ProcessFailure as failure:
            raise EngineFailure(str(failure)) from None

    def _receive(self, seconds: float) -> Any:
        try:
            return self._process.receive(seconds)
        except ProcessFailure as failure:
            raise EngineFailure(str(failure)) from None


def _lines(requests: Sequence[Request], sampling: Sampling) -> dict[str, Any]:
    """Requests as the process takes them, each prompt once."""
    prompts = {prompt: i for i, prompt in enumerate(dict.fromkeys(r.prompt_ids for r in requests))}
    asked = [[prompts[r.prompt_ids], r.seed, r.most(sampling)] for r in requests]
    return {"prompts": list(prompts), "requests": asked}


def _response(message: dict[str, Any], sampling: Sampling) -> Response:
    made = Response(
        token_ids=tuple(message["ids"]),
        logp=tuple(message["logp"]),
        finish_reason=message["finish"],
        top_ids=tuple(message["top_ids"]),
        top_logp=tuple(message["top_logp"]),
        entropy=tuple(message["entropy"]),
    )
    if made.finish_reason not in ("stop", "length") or not made.complete(sampling):
        raise EngineFailure(
            f"vllm: response {message['index']} ended by {made.finish_reason} with {len(made.token_ids)} "
            f"tokens, {len(made.logp)} log-probabilities, {len(made.top_ids)} of likely tokens, "
            f"{sampling.top} a token, and {len(made.entropy)} entropies"
        )
    return made


open_engine = Vllm
