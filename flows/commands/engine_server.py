"""``ostinato engine serve``: a vLLM server for runs on this machine or others."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.environment import workspace
from params.base import BadInput
from params.load import compose
from tasks.engines import selection

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve_weights(model: str, folder: Path | None, host: str, port: int, settings: Sequence[str]) -> None:
    """Become the server; does not return. Raises ``BadInput``."""
    params = compose(model, "arithmetic", "grpo", settings)
    selection.resolve("vllm")
    base = folder or Path(params.model.source).expanduser()
    if not (base / "config.json").is_file():
        raise BadInput(
            f"--folder {base}: no config.json in it; expected a Hugging Face folder, such as the model of a "
            f"run, {workspace() / 'runs' / 'NAME' / 'model'}"
        )
    from tasks.engines import vllm_launch
    from tasks.engines.vllm_guard import KEY

    if host not in LOOPBACK and not os.environ.get(KEY):
        raise BadInput(
            f"--host {host}: whoever reaches the server can give it weights; expected a key in {KEY}, "
            "or 127.0.0.1 behind an ssh tunnel"
        )
    command = vllm_launch.command(base, params, host, chats=True, more=("--port", str(port)))
    print(f"ostinato: vLLM on http://{host}:{port}; Ctrl-C ends it", file=sys.stderr, flush=True)
    os.execve(command[0], command, vllm_launch.environment(params))  # noqa: S606 - no shell between
