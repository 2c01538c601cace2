"""One shard of a rollout, sampled in this process: what each process of a cluster runs."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from params.schema import Params
from tasks.artefacts.artefact import Artefact, canonical
from tasks.artefacts.role import Role
from tasks.artefacts.store import Store
from tasks.artefacts.tables import ASKED, write_table
from tasks.core.context import Context
from tasks.core.stage import Job
from tasks.rollout.sampling import sample
from tasks.rollout.shards import TABLE

STAGE = "shard"


def make_shard(shard: Mapping[str, Any]) -> str:
    """The path of a shard's artefact, found or made in this process."""
    torch.set_num_threads(shard["threads"])
    store = Store(Path(shard["root"]))
    params = Params.model_validate(shard["params"])
    identity = hashlib.sha256(
        canonical({name: shard[name] for name in ("rollout", "call", "problems")})
    ).hexdigest()
    inputs = {name: Artefact.open(Path(path), check=False) for name, path in shard["inputs"].items()}
    stage, samples, *options = shard["call"]
    problems = pa.Table.from_pylist(shard["problems"], schema=ASKED)

    def fill(out: Path) -> dict[str, Any]:
        job = Job(params, shard["round"], inputs, out, _context(shard["root"]))
        sampled = sample(job, stage, problems, samples, *options)
        write_table(out / TABLE, sampled.answers)
        role = Role(kind="sample", label="shard", time_of="sampling")
        facts = {"role": role, "round": job.round, "seed": params.seed, "params": {}, "inputs": {}}
        return {**facts, "code": {}, "versions": {}, "measured": sampled.measured}

    with store.lock(f"{STAGE}-{identity[:20]}"):
        found = store.find(STAGE, identity) or store.make(STAGE, identity, fill)
    return str(found.path)


@functools.cache
def _context(root: str) -> Context:
    """What this process keeps from shard to shard: its engine, model and judge."""
    store = Store(Path(root))
    context = Context(store.scratch(f"shards-{os.getpid()}"), store=store)
    atexit.register(context.close)
    return context
