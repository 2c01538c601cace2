"""What samples text: which engine, its memory, its servers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from params import address
from params.base import Config
from params.speed import Probability, Speed


class Engine(Config):
    """What samples text."""

    name: Literal["auto", "vllm", "transformers", "server"] = "auto"
    """``auto`` takes vLLM where it is installed, but ``transformers`` for a model narrower than 768 on a CPU
    of two cores or one; ``server``: vLLM servers over HTTP, on any machine."""
    dtype: Literal["auto", "bfloat16", "float32", "float8"] = "auto"
    """Type that the engine computes in; ``auto``: the base weights' type; ``float8``: the weights of linear
    layers rounded to float8 (e4m3, one scale a row), all else in bfloat16."""
    kv_cache_gib: Annotated[PositiveFloat, Speed] = 0.5
    """Memory for vLLM's key-value cache on CPU, in GiB."""
    memory_fraction: Annotated[Probability, Speed] = 0.5
    """Share of a GPU's memory that vLLM takes."""
    sleep: Annotated[bool, Speed] = False
    """``vllm`` on a GPU that it shares with the trainer: give its memory back while the trainer works."""
    gpus: Annotated[tuple[NonNegativeInt, ...], Speed] = ()
    """GPUs of vLLM or of the servers that are started, counted from 0 among those that are seen.
    Empty: the first ones, or for servers all."""
    tensor_parallel: Annotated[PositiveInt, Speed] = 1
    """GPUs over which vLLM splits the model, a server at a time."""
    max_sequences: Annotated[PositiveInt | None, Speed] = None
    """Responses decoded side by side, on each server; null: 128, or 512 on a GPU."""
    start_timeout: Annotated[PositiveInt | None, Speed] = None
    """Seconds that an engine may take to start, and that a run waits while no server is listed or up; null:
    300, or 900 on a GPU."""
    reply_timeout: Annotated[PositiveInt, Speed] = 3600
    """Seconds without any sign of life after which the engine counts as dead."""
    servers: Annotated[tuple[str, ...], AfterValidator(address.servers), Speed] = ()
    """``server`` only: addresses of vLLM servers, such as ``http://127.0.0.1:8001``, and names as
    ``dns://NAME:PORT`` for every address that the name stands for, looked up again and again."""
    servers_file: Annotated[str | None, Speed] = None
    """``server`` only: a file with further addresses, one a line, ``#`` before comments; read again and
    again, so that servers join and leave during a run."""
    start_servers: Annotated[int, Field(ge=0), Speed] = 0
    """``server`` only: servers to start on this machine, which split its cores or GPUs and the memory above
    evenly."""
    health_timeout: Annotated[PositiveInt, Speed] = 30
    """Seconds after which a server that says nothing of its health counts as lost."""
    weights: Annotated[Literal["folder", "http"], Speed] = "folder"
    """``server`` only: how new weights reach servers; ``folder``: they read them in one that they see too;
    ``http``: they are sent."""
    weights_folder: Annotated[str | None, Speed] = None
    """A folder that this machine and the servers' see under the same path, for new weights; null: the
    workspace, which is right for servers on this machine."""
    probe_tolerance: Annotated[PositiveFloat, Speed] = 0.25
    """Largest mean difference between engine and trainer on the probe's log-probabilities, in nats."""

    @model_validator(mode="after")
    def _has_servers(self) -> Engine:
        told = bool(self.servers or self.servers_file or self.start_servers)
        if told and self.name != "server":
            raise ValueError(
                f"engine.name: {self.name} asks no servers; expected server where some are named"
            )
        if not told and self.name == "server":
            raise ValueError(
                "engine.servers: no address; expected some, or engine.servers_file, or engine.start_servers "
                "above 0"
            )
        if self.name == "transformers" and (self.tensor_parallel > 1 or self.sleep or self.gpus):
            raise ValueError(
                "engine.name: transformers samples in the trainer's process; expected vllm, or none of "
                "engine.sleep, engine.gpus and engine.tensor_parallel"
            )
        if self.weights == "http" and (self.name != "server" or self.weights_folder):
            raise ValueError(
                "engine.weights: http sends weights to servers; expected engine.name server, and no "
                "engine.weights_folder"
            )
        if self.sleep and self.name == "server":
            raise ValueError("engine.sleep: servers do not sleep; expected engine.name vllm")
        if self.gpus and len(self.gpus) % self.tensor_parallel:
            raise ValueError(
                f"engine.gpus: {len(self.gpus)} GPUs; expected a multiple of engine.tensor_parallel, "
                f"{self.tensor_parallel}"
            )
        return self
