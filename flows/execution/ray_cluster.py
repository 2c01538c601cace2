"""The shards of a rollout on Ray workers, as mapped Prefect tasks."""

from __future__ import annotations

import contextvars
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task

from params.base import BadInput
from params.schema import Params
from tasks.core.device import sees_gpu
from tasks.core.json_process import environment


class RayCluster:
    """A Ray of this run's own, or the one that ``RAY_ADDRESS`` names; it starts with the first shards."""

    def __init__(self, workspace: Path, count: int) -> None:
        self.workspace = workspace
        self._count = count
        # Here and not in ``each``: inside a stage's task, Prefect would send that to the workers.
        self._flow = contextvars.copy_context()
        self._runner: Any = None

    def each(self, shards: Sequence[Mapping[str, Any]]) -> list[str]:
        """The paths of the shards' artefacts, in their order."""
        if self._runner is None:
            self._runner = self._start()
        return self._flow.run(self._map, list(shards))

    def close(self) -> None:
        """End it, unless it was there before."""
        if self._runner is not None:
            self._runner.__exit__(None, None, None)

    def _map(self, shards: list[Mapping[str, Any]]) -> list[str]:
        from prefect_ray.context import remote_options

        # max_calls: by default a worker with a GPU ends after one task, and its engine with it.
        with remote_options(num_gpus=1 if sees_gpu() else 0, max_calls=0, max_retries=3):
            futures = self._runner.map(sample_shard, {"shard": shards})
        return [str(future.result()) for future in futures]

    def _start(self) -> Any:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # every listener on the loopback
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from prefect.client.orchestration import get_client
        from prefect_ray import RayTaskRunner

        api = str(get_client(sync_client=True).api_url)
        path = environment()["PYTHONPATH"]
        known = {name: value for name, value in os.environ.items() if name.startswith(("PREFECT_", "OMP_"))}
        settings: dict[str, Any] = {
            "runtime_env": {"env_vars": {**known, "PREFECT_API_URL": api, "PYTHONPATH": path}},
            "include_dashboard": False,
            "log_to_driver": False,
        }
        if "RAY_ADDRESS" not in os.environ:
            settings.update(num_cpus=self._count, _node_ip_address="127.0.0.1")
        return RayTaskRunner(os.environ.get("RAY_ADDRESS"), init_kwargs=settings).__enter__()


def require_ray(params: Params) -> None:
    """Raises ``BadInput`` where the run wants Ray and it is not installed."""
    if params.rollout.shards == 1:
        return
    if importlib.util.find_spec("prefect_ray") is None or importlib.util.find_spec("ray") is None:
        raise BadInput(
            "rollout.shards: Ray is not installed; expected it to be, by pip install -e '.[ray]', or 1"
        )


@task(name="rollout-shard", persist_result=False)
def sample_shard(shard: Mapping[str, Any]) -> str:
    """The path of a shard's artefact, found or made, in a Ray worker."""
    from flows.execution.shards import make_shard  # torch: only the workers need it

    return make_shard(shard)
