"""A process's connection to Ray: one that it starts for itself, or the cluster that ``RAY_ADDRESS`` names."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from params.base import BadInput
from params.reward import several
from params.schema import Params
from params.user_code import search_path
from tasks.core.errors import StageFailure
from tasks.core.json_process import ROOT, last_words
from tasks.engines.vllm_guard import KEY
from tasks.rewards.contract import chosen_reward

ADDRESS = "RAY_ADDRESS"
ANSWER_SECONDS = 10.0


class Gone(StageFailure):
    """An actor is no more: it was killed, or its node died."""


class Session:
    """Made by ``open_session``."""

    def __init__(self, own: bool, folder: Path, root: Path, env: dict[str, str], log: Path) -> None:
        self.own = own
        """Whether it ends with this process: it is on this machine alone."""
        self.folder = folder
        """Of files that nobody needs after it."""
        self._root, self._env, self._log = root, env, log
        self._token = {"path": str(folder / "token"), "text": secrets.token_hex(16)}
        Path(self._token["path"]).write_text(self._token["text"])
        import ray

        self._ray = ray
        self._gpus = int(bool(ray.cluster_resources().get("GPU")))
        self.wanted = "a free GPU and CPU" if self._gpus else "a free CPU"
        """By an actor, in words."""

    def nodes(self) -> int:
        """How many are alive."""
        return max(1, len([node for node in self._ray.nodes() if node["Alive"]]))

    def actor(self, kind: type) -> Any:
        """One that is placed as far from the others as there are nodes."""
        options = {"num_cpus": 1, "num_gpus": self._gpus, "scheduling_strategy": "SPREAD"}
        return self._ray.remote(kind).options(**options).remote()

    def actors_elsewhere(self, kind: type, count: int) -> list[Any]:
        """One on each of so many other nodes, beside what is there. Raises ``BadInput`` for too many."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = self._ray.get_runtime_context().get_node_id()
        others = [node["NodeID"] for node in self._ray.nodes() if node["Alive"] and node["NodeID"] != here]
        if len(others) < count:
            raise BadInput(
                f"update.machines: {count + 1}, but the Ray cluster has {len(others) + 1} nodes; expected at "
                "most as many"
            )
        places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in others[:count]]
        make: Any = self._ray.remote(kind).options
        return [make(num_cpus=0, scheduling_strategy=place).remote() for place in places]

    def address(self) -> str:
        """Of this node, as the others know it."""
        return str(self._ray.util.get_node_ip_address())

    def opening(self, handle: Any) -> Any:
        """What an actor will answer once it is up: see ``ray_actors.Actor.open``."""
        return handle.open.remote(str(self._root), self._token, self._env)

    def ready(self, asked: Sequence[Any], seconds: float, all: bool = False) -> list[Any]:
        """What of ``asked`` has an answer within ``seconds``: as soon as there is one, or ``all``."""
        if not asked:
            return []
        wanted = len(asked) if all else 1
        found, _ = self._ray.wait(list(asked), num_returns=wanted, timeout=seconds)
        return list(found)

    def result(self, answer: Any) -> Any:
        """An answer that is there. Raises ``Gone``, and ``StageFailure`` for what has no other word."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(answer)
        except errors.RayTaskError as error:
            text = str(error)
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a") as log:
                log.write(f"{text}\n")
            raise StageFailure(f"Ray: an actor failed: {last_words(text)} (log: {self._log})") from None
        except (
            errors.RayActorError,
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.OutOfMemoryError,
            errors.ObjectLostError,
        ) as error:
            raise Gone(" ".join(str(error).split())[:300]) from None
        except errors.RayError as error:
            raise StageFailure(f"Ray: {' '.join(str(error).split())[:300]}") from None

    def kill(self, handle: Any) -> None:
        """End an actor now, if there is one."""
        self._ray.kill(handle)

    def close(self) -> None:
        """End it, or leave the cluster."""
        self._ray.shutdown()


def open_session(params: Params, root: Path, scratch: Path, count: int) -> Session:
    """Connect. ``root``: the workspace; ``scratch``: a folder in it that is this run's; ``count``: actors
    that a Ray of the run's own must have room for. Raises ``BadInput`` where no Ray answers."""
    log = root / ".ostinato" / "logs" / f"{scratch.name.removeprefix('run-')}.shards.log"
    address, alone = os.environ.get(ADDRESS) or "local", own()
    settings: dict[str, Any] = {}
    if alone:
        settings |= {"num_cpus": count, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if alone or _answers(address).startswith("127."):
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # every listener on the loopback
    import ray
    from ray.job_config import JobConfig

    path = [str(ROOT), *search_path()]
    try:
        with _same_signals():
            ray.init(
                address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                job_config=JobConfig(_py_driver_sys_path=path),
                **settings,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = "Ray" if alone else f"{ADDRESS}={address}"
        raise BadInput(
            f"{where}: cannot be used ({' '.join(str(error).split())[:200]}); expected a Ray of this version "
            "with a node on this machine"
        ) from None
    env = {**keys(params), "PYTHONPATH": os.pathsep.join(path)}
    return Session(alone, Path(mkdtemp(prefix="ray-", dir=scratch)), root, env, log)


def own() -> bool:
    """Whether this process would start a Ray of its own."""
    return (os.environ.get(ADDRESS) or "local") == "local"


def _answers(address: str) -> str:
    """The IP address of a cluster ``HOST:PORT``, which Ray itself would try for minutes; else nothing. Raises
    ``BadInput`` where nobody listens there."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        return ""  # such as auto
    try:
        with socket.create_connection((host, int(port)), ANSWER_SECONDS) as probe:
            return str(probe.getpeername()[0])
    except OSError as error:
        raise BadInput(f"{ADDRESS}={address}: no Ray answers ({error}); start one, or unset it") from None


def keys(params: Params) -> dict[str, str]:
    """What a run's actors must know of this process's environment: keys of servers that they talk to."""
    judged = [params.task.reward, *(task.reward for task in params.tasks.values())]
    judged += [given.reward for given in params.evaluate.sets.values()]
    configs = [chosen_reward(choice, "task.reward")[1] for each in judged for choice in several(each)]
    names = [KEY, *(getattr(config, "key_from", KEY) for config in configs)]
    return {name: os.environ[name] for name in names if name in os.environ}


@contextmanager
def _same_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself, where it can; who had it before gets it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if signal.getsignal(signal.SIGTERM) is not before:
        signal.signal(signal.SIGTERM, before)
