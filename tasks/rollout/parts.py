"""Sampling in parts, each kept until the artefact is whole: a stage that was interrupted goes on."""

from __future__ import annotations

import functools
import hashlib
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.artefacts.artefact import Artefact, Damaged, canonical
from tasks.artefacts.role import Role
from tasks.artefacts.tables import read_table, write_table
from tasks.core.context import Shared
from tasks.core.stage import Job
from tasks.rollout.sampling import Sampled, sample
from tasks.rollout.shards import TABLE, sample_in_shards

STAGE = "part"


def sample_part(job: Job, stage: str, problems: pa.Table, samples: int, *options: Any) -> Sampled:
    """``tasks.rollout.sampling.sample`` with its arguments, or what it gave before an interruption; by the
    processes of the job's cluster, where there is one."""
    if job.context.cluster and job.params.rollout.shards > 1 and job.answers is None:
        return sample_in_shards(job, stage, problems, samples, *options)
    store = job.context.store
    if store is None:
        return sample(job, stage, problems, samples, *options)
    asked = [job.fingerprint, stage, samples, *options, problems["problem_id"].to_pylist()]
    identity = hashlib.sha256(canonical({"part": asked})).hexdigest()
    found = _found(store, identity)
    if found is None:

        def fill(out: Path) -> dict[str, Any]:
            sampled = sample(job, stage, problems, samples, *options)
            write_table(out / TABLE, sampled.answers)
            role = Role(kind="sample", label="part of a stage", time_of="sampling")
            facts = {"role": role, "round": job.round, "seed": job.params.seed, "params": {}, "inputs": {}}
            return {**facts, "code": {}, "versions": {}, "measured": sampled.measured}

        found = store.make(STAGE, identity, fill)
    job.context.when_whole(functools.partial(shutil.rmtree, found.path, ignore_errors=True))
    return Sampled(read_table(found.file(TABLE)), found.manifest.measured)


def _found(store: Shared, identity: str) -> Artefact | None:
    try:
        return store.find(STAGE, identity)
    except Damaged:
        return None
