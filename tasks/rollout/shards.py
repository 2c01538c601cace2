"""A round's problems split over the actors of a cluster; each shard is an artefact of its own.

A shard is sampled and judged by an engine of the actor's own. It is found by what it is, so that a run that
is started again keeps the shards that were finished; they go once the rollout that joins them is whole.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table
from tasks.core.stage import Job
from tasks.rollout.sampling import Sampled, joined

TABLE = "rollouts.parquet"


def sample_in_shards(job: Job, stage: str, problems: pa.Table, samples: int, *options: Any) -> Sampled:
    """``tasks.rollout.sampling.sample`` by the actors of the job's cluster, with its arguments."""
    cluster = job.context.cluster
    assert cluster is not None
    count = min(job.params.rollout.shards, problems.num_rows)
    asked = {
        "root": str(cluster.workspace),
        "params": job.params.model_dump(mode="json"),
        "round": job.round,
        "inputs": {name: str(artefact.path.resolve()) for name, artefact in job.inputs.items()},
        "threads": job.params.threads,
        "call": [stage, samples, *options],
        "rollout": job.fingerprint,
    }
    parts = np.array_split(np.arange(problems.num_rows), count)
    shards = [{**asked, "problems": problems.take(part).to_pylist()} for part in parts]
    paths = cluster.each(shards, lambda done: job.context.tell("sampling", done, count, {}))
    found = [Artefact.open(Path(path)) for path in paths]
    for artefact in found:
        job.context.when_whole(functools.partial(shutil.rmtree, artefact.path, ignore_errors=True))
    said = [artefact.manifest.measured for artefact in found]
    measured = {name: sum(one[name] for one in said) for name in said[0]}
    measured["sampling_seconds"] = max(one["sampling_seconds"] for one in said)
    measured["tokens_per_second"] = measured["sampled_tokens"] / measured["sampling_seconds"]
    return Sampled(joined([read_table(artefact.file(TABLE)) for artefact in found]), measured)
