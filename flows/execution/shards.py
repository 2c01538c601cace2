"""One shard of a rollout, sampled in this process: what each actor of a cluster runs."""

from __future__ import annotations

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


def make_shard(shard: Mapping[str, Any], context: Context) -> str:
    """The path of a shard's artefact, found or made in this process. ``context``: what the process keeps from
    shard to shard."""
    torch.set_num_threads(max(1, (shard["threads"] or os.cpu_count() or 1) // shard["beside"]))
    store = Store(Path(shard["root"]))
    params = Params.model_validate(shard["params"])
    identity = hashlib.sha256(
        canonical({name: shard[name] for name in ("rollout", "call", "problems")})
    ).hexdigest()
    inputs = {name: Artefact.open(Path(path), check=False) for name, path in shard["inputs"].items()}
    stage, samples, *options = shard["call"]
    problems = pa.Table.from_pylist(shard["problems"], schema=ASKED)

    def fill(out: Path) -> dict[str, Any]:
        job = Job(params, shard["round"], inputs, out, context)
        sampled = sample(job, stage, problems, samples, *options)
        write_table(out / TABLE, sampled.answers)
        role = Role(kind="sample", label="shard", time_of="sampling")
        facts = {"role": role, "round": job.round, "seed": params.seed, "params": {}, "inputs": {}}
        return {**facts, "code": {}, "versions": {}, "measured": sampled.measured}

    with store.lock(f"{STAGE}-{identity[:20]}"):
        found = store.find(STAGE, identity) or store.make(STAGE, identity, fill)
    return str(found.path)


def shard_context(root: str, scratch: str) -> Context:
    """What a process keeps from shard to shard, its engine, model and judge, with a folder for its files."""
    folder = Path(scratch)
    folder.mkdir(parents=True, exist_ok=True)
    return Context(folder, store=Store(Path(root)))
