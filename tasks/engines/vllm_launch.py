"""vLLM servers on this machine: how one is started, kept and ended."""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from params.schema import Params
from tasks.core.device import VISIBLE, named_gpus, start_timeout, visible_gpus
from tasks.core.json_process import JsonProcess
from tasks.engines import vllm_options
from tasks.engines.base import EngineFailure
from tasks.engines.http import Client, Lost
from tasks.engines.vllm_build import on_gpu
from tasks.engines.vllm_entrypoint import WITH_PARENT
from tasks.engines.vllm_extension import Extension
from tasks.engines.vllm_guard import KEY, Guard

LOOPBACK = "127.0.0.1"
HEALTH_SECONDS = 10.0
"""After which a server that says nothing of its health hangs."""
LOOK_SECONDS = 0.25
"""Between two looks at a server that starts."""


class LocalServer:
    """A server of ours: a process that ends with this one."""

    def __init__(self, name: str, command: list[str], env: Mapping[str, str], log: Path, start: int) -> None:
        """Start it on a free port; ``start``: seconds that it may take."""
        self.port = free_port()
        self.address = f"http://{LOOPBACK}:{self.port}"
        self._name, self._log, self._start_seconds = name, log, start
        self._start = partial(JsonProcess, name, [*command, "--port", str(self.port)], env, log)
        self._client = Client(self.address, os.environ.get(KEY))
        self._process = self._start()
        self._fresh, self._closed = True, False

    def ensure(self) -> bool:
        """Wait until it serves, started anew where it died or hangs; whether it is a new one.

        Raises ``EngineFailure`` where it ends instead or takes too long.
        """
        if self._closed:
            raise EngineFailure(f"{self._name}: closed")
        if not self._fresh:
            if self._process.alive and self._serves(HEALTH_SECONDS):
                return False
            self._process.close()
            self._process = self._start()
        self._fresh = False
        until = time.monotonic() + self._start_seconds
        while not self._serves(LOOK_SECONDS * 4):
            if not self._process.alive:
                raise EngineFailure(str(self._process.death()))
            if self._closed or time.monotonic() > until:
                self._process.close()
                raise EngineFailure(
                    f"{self._name}: did not serve within {self._start_seconds} s (log: {self._log})"
                )
            time.sleep(LOOK_SECONDS)
        return True

    def close(self) -> None:
        """End it, with the processes that it started, for good."""
        self._closed = True
        self._process.close()

    def _serves(self, seconds: float) -> bool:
        try:
            self._client.get("/health", seconds)
        except (Lost, EngineFailure):
            return False
        return True


def local_servers(
    base: Path, params: Params, scratch: Path, adapted: Sequence[str] = ()
) -> list[LocalServer]:
    """``engine.start_servers`` servers, started; cores, GPUs and memory are split among them."""
    count = params.engine.start_servers
    return [
        LocalServer(
            f"vllm server {place + 1}",
            command(base, shared(params, count), LOOPBACK, adapted, with_parent=True),
            {**environment(params), **own_part(params, place)},
            scratch / f"vllm-server-{place + 1}.log",
            start_timeout(params.engine, on_gpu()),
        )
        for place in range(count)
    ]


def command(
    base: Path,
    params: Params,
    host: str,
    adapted: Sequence[str] = (),
    with_parent: bool = False,
    chats: bool = False,
    more: tuple[str, ...] = (),
) -> list[str]:
    """What starts a server that can do all that is asked of one; with ``chats`` it also reads and writes
    text, as a judge model does."""
    options = vllm_options.arguments(base, params, adapted)
    options["skip_tokenizer_init"] = not chats
    options["max_logprobs"] += 1  # a server counts the sampled token among the likeliest
    arguments = [part for name, value in options.items() for part in _argument(name, value)]
    extension, guard = (f"{kind.__module__}.{kind.__qualname__}" for kind in (Extension, Guard))
    return [
        *(sys.executable, "-m", "tasks.engines.vllm_entrypoint"),
        *([WITH_PARENT] if with_parent else []),
        *arguments,
        *("--served-model-name", "base", "--enable-scale-out", "--host", host),
        *("--worker-extension-cls", extension, "--middleware", guard),
        *("--uvicorn-log-level", "warning", "--disable-uvicorn-access-log"),
        *more,
    ]


def environment(params: Params) -> dict[str, str]:
    """The environment of a server."""
    own = {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    key = os.environ.get(KEY)
    return {**vllm_options.environment(params), **own, **({"VLLM_API_KEY": key} if key else {})}


def shared(params: Params, servers: int) -> Params:
    """Each server's part of the memory that the engine may take on this machine."""
    engine = params.engine
    places = max(1, len(_gpus(params)) // engine.tensor_parallel)
    part = {
        "kv_cache_gib": engine.kv_cache_gib / servers,
        "memory_fraction": engine.memory_fraction / math.ceil(servers / places),
    }
    return params.model_copy(update={"engine": engine.model_copy(update=part)})


def own_part(params: Params, place: int) -> dict[str, str]:
    """The cores or the GPUs of one server, as its environment says it."""
    servers, wide = params.engine.start_servers, params.engine.tensor_parallel
    if on_gpu():
        devices = _gpus(params)
        first = place % (len(devices) // wide) * wide
        return {VISIBLE: ",".join(devices[first : first + wide])}
    cores = sorted(os.sched_getaffinity(0))
    mine = cores[place::servers] or [cores[place % len(cores)]]
    return {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, mine))}


def _gpus(params: Params) -> list[str]:
    chosen = params.engine.gpus
    return named_gpus(chosen, "engine.gpus") if chosen else visible_gpus()


def free_port() -> int:
    """A port of the loopback address that nobody uses at the moment."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


def _argument(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, list):
        return [f"--{flag}", *value]
    return [f"--{flag}", str(value)]
