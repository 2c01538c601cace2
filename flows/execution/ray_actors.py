"""What a run starts on the nodes of a Ray cluster. Imports nothing heavy: an actor's environment comes first.

An actor is handed its environment as an argument, which Ray keeps in memory; a ``runtime_env`` would be
written to logs, keys and all.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.environment import prepare_threads
from params.base import BadInput
from params.errors import OstinatoError

if TYPE_CHECKING:
    from tasks.core.context import Context
    from tasks.core.json_process import JsonProcess

LOOK_SECONDS = 5.0
"""For a file that another node has just written to appear on a shared file system."""


class Actor:
    """One process on a node, for a whole run."""

    def open(self, root: str, token: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
        """``{"ok": node}``, or ``{"bad_input": why}`` where the node does not see the workspace ``root``.
        ``token``: the path of a file there, and what is in it. ``env``: what the environment must have."""
        os.environ.update(env)
        prepare_threads()
        node = socket.gethostname()
        if not _sees(Path(token["path"]), token["text"]):
            return {
                "bad_input": f"Ray: node {node} does not see the workspace {root}; expected the "
                "same files under the same path on every node of the Ray cluster"
            }
        return {"ok": node}


class ShardActor(Actor):
    """Samples shards one after the other, and keeps its engine, model and judge."""

    _context: Context | None = None

    def make(self, shard: Mapping[str, Any], scratch: str) -> dict[str, str]:
        """``{"ok": path}`` of a shard's artefact, found or made; else ``{"bad_input": why}`` or
        ``{"failed": why}``. ``scratch``: a folder of this actor's own."""
        from flows.execution.shards import make_shard, shard_context  # torch, after the environment
        from tasks.core.errors import memory_errors
        from tasks.core.memory import give_back

        self._context = self._context or shard_context(shard["root"], scratch)
        try:
            with memory_errors("rollout"):
                return {"ok": make_shard(shard, self._context)}
        except BadInput as error:
            return {"bad_input": str(error)}
        except OstinatoError as error:
            return {"failed": str(error)}
        finally:
            give_back()

    def close(self) -> None:
        """Close the engine, the model and the judge."""
        if self._context is not None:
            self._context.close()


class RankActor(Actor):
    """Holds the launcher of a further machine's ranks in updates; it ends with this process."""

    _launcher: JsonProcess | None = None

    def start(self, folder: str, machine: int) -> dict[str, str]:
        """Start it: ``{"ok": folder}``."""
        from tasks.update.ranks import join  # torch, after the environment

        self._launcher = join(Path(folder), machine)
        return {"ok": folder}


def _sees(path: Path, text: str) -> bool:
    deadline = time.monotonic() + LOOK_SECONDS
    while True:
        try:
            return path.read_text() == text
        except OSError:
            if time.monotonic() > deadline:
                return False
        time.sleep(LOOK_SECONDS / 10)
