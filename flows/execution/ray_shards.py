"""A round's problems split over Ray workers, as mapped Prefect tasks; each shard is an artefact of its own.

A shard is sampled and judged by an engine of the worker's own. It is found by what it is, so that a run that
is started again keeps the shards that were finished; they go once the rollout that joins them is whole.
"""

from __future__ import annotations

import atexit
import contextvars
import functools
import hashlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from prefect import task

from flows.execution.fingerprint import ROOT
from flows.execution.runner import Runner
from flows.stage_table.stages import Node
from params.base import BadInput
from params.schema import Params
from tasks.artefacts.artefact import Artefact, canonical
from tasks.artefacts.store import Store
from tasks.artefacts.tables import PROBLEMS, read_table, write_table
from tasks.core.context import Context
from tasks.core.stage import Job

if TYPE_CHECKING:
    from tasks.rollout.sampling import Sampled

TABLE = "rollouts.parquet"
STAGE = "shard"


@contextmanager
def sharded(runner: Runner, node: Node, identity: str) -> Iterator[None]:
    """Inside the block, this node's rollout is sampled in shards, if the run wants that.

    ``identity`` is the node's fingerprint. Once the block is left the shards are not needed any more.
    """
    if node.stage.name != "rollout" or runner.params.rollout.shards == 1:
        yield
        return
    made: list[Artefact] = []
    flow = contextvars.copy_context()  # inside the stage's task, Prefect would send that task to the workers
    runner.context.sampler = functools.partial(_sample, runner.root, identity, made, flow)
    try:
        yield
    finally:
        runner.context.sampler = None
    for artefact in made:
        shutil.rmtree(artefact.path, ignore_errors=True)


def _sample(
    root: Path,
    identity: str,
    made: list[Artefact],
    flow: contextvars.Context,
    job: Job,
    stage: str,
    problems: pa.Table,
    samples: int,
    *options: Any,
) -> Sampled:
    """``tasks.rollout.sampling.sample`` by Ray workers; its shards join ``made``."""
    from tasks.rollout.sampling import (
        Sampled,
        joined,  # transformers: seconds that a run without shards need not wait
    )

    count = min(job.params.rollout.shards, problems.num_rows)
    asked = {
        "root": str(root),
        "params": job.params.model_dump(mode="json"),
        "round": job.round,
        "inputs": {name: str(artefact.path.resolve()) for name, artefact in job.inputs.items()},
        "threads": max(1, (job.params.threads or os.cpu_count() or 1) // count),
        "call": [stage, samples, *options],
        "rollout": identity,
    }
    parts = np.array_split(np.arange(problems.num_rows), count)
    shards = [{**asked, "problems": problems.take(part).to_pylist()} for part in parts]
    ray = job.context.keep(("ray",), lambda: _Ray(job.params.rollout.shards))
    job.context.tell("sampling", 0, count, {})
    found = [Artefact.open(Path(path)) for path in flow.run(ray.each, shards)]
    made += found
    said = [artefact.manifest.measured for artefact in found]
    measured = {name: sum(one[name] for one in said) for name in said[0]}
    measured["sampling_seconds"] = max(one["sampling_seconds"] for one in said)
    measured["tokens_per_second"] = measured["sampled_tokens"] / measured["sampling_seconds"]
    return Sampled(joined([read_table(artefact.file(TABLE)) for artefact in found]), measured)


class _Ray:
    """A Ray of this run's own, or the one that ``RAY_ADDRESS`` names."""

    def __init__(self, count: int) -> None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # every listener on the loopback
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from prefect.client.orchestration import get_client
        from prefect_ray import RayTaskRunner

        api = str(get_client(sync_client=True).api_url)
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        known = {name: value for name, value in os.environ.items() if name.startswith(("PREFECT_", "OMP_"))}
        settings: dict[str, Any] = {
            "runtime_env": {"env_vars": {**known, "PREFECT_API_URL": api, "PYTHONPATH": path}},
            "include_dashboard": False,
            "log_to_driver": False,
        }
        if "RAY_ADDRESS" not in os.environ:
            settings.update(num_cpus=count, _node_ip_address="127.0.0.1")
        self._runner = RayTaskRunner(os.environ.get("RAY_ADDRESS"), init_kwargs=settings)
        self._runner.__enter__()

    def each(self, shards: list[dict[str, Any]]) -> list[str]:
        """The paths of the shards' artefacts, in their order."""
        import torch
        from prefect_ray.context import remote_options

        with remote_options(num_gpus=1 if torch.cuda.is_available() else 0, max_retries=3):
            futures = self._runner.map(sample_shard, {"shard": shards})
        return [str(future.result()) for future in futures]

    def close(self) -> None:
        """End it, unless it was there before."""
        self._runner.__exit__(None, None, None)


def require_ray(params: Params) -> None:
    """Raises ``BadInput`` where the run wants Ray and it is not installed."""
    if params.rollout.shards == 1:
        return
    if importlib.util.find_spec("prefect_ray") is None or importlib.util.find_spec("ray") is None:
        raise BadInput(
            "rollout.shards: Ray is not installed; expected it to be, by pip install 'ostinato[ray]', or 1"
        )


@task(name="rollout-shard", persist_result=False)
def sample_shard(shard: dict[str, Any]) -> str:
    """The path of a shard's artefact, found or made, in a Ray worker."""
    import torch

    torch.set_num_threads(shard["threads"])
    store = Store(Path(shard["root"]))
    params = Params.model_validate(shard["params"])
    identity = hashlib.sha256(
        canonical({name: shard[name] for name in ("rollout", "call", "problems")})
    ).hexdigest()
    inputs = {name: Artefact.open(Path(path), check=False) for name, path in shard["inputs"].items()}
    stage, samples, *options = shard["call"]
    problems = pa.Table.from_pylist(shard["problems"], schema=PROBLEMS)

    def fill(out: Path) -> dict[str, Any]:
        job = Job(params, shard["round"], inputs, out, _context(shard["root"]))
        from tasks.rollout.sampling import sample

        sampled = sample(job, stage, problems, samples, *options)
        write_table(out / TABLE, sampled.answers)
        facts = {"round": job.round, "seed": params.seed, "params": {}, "inputs": {}, "code": ""}
        return {**facts, "versions": {}, "measured": sampled.measured}

    with store.lock(f"{STAGE}-{identity[:20]}"):
        found = store.find(STAGE, identity) or store.make(STAGE, identity, fill)
    return str(found.path)


@functools.cache
def _context(root: str) -> Context:
    """What this Ray worker keeps from shard to shard: its engine, model and judge."""
    context = Context(scratch=Store(Path(root)).scratch(f"ray-{os.getpid()}"))
    atexit.register(context.close)
    return context
