"""The stage ``estimate``: how often the base model solves each training problem."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from algorithms.correct import CORRECT
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import table_writer
from tasks.core.stage import Job
from tasks.rollout.parts import sample_part
from tasks.rollout.prompts import askable

RATES = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("judged", pa.int32(), nullable=False),  # answers that the judge could judge
        pa.field("right", pa.int32(), nullable=False),
    ]
)
TABLE = "rates.parquet"
PART_ANSWERS = 4096
"""Answers after which an estimate that is interrupted goes on."""


def estimate(job: Job) -> dict[str, float]:
    """``model`` and ``problems`` into ``rates.parquet``, a row for each training problem, and
    ``metrics.json``."""
    began = time.perf_counter()
    settings, training = job.params.curriculum, askable(job).train
    assert settings is not None
    samples, temperature = settings.samples_per_problem, job.params.rollout.temperature
    size = max(1, PART_ANSWERS // samples)
    measured: Counter[str] = Counter()
    rates: list[float] = []
    with table_writer(job.out / TABLE, RATES) as write:
        for start in range(0, len(training), size):
            sampled = sample_part(job, "estimate", training.slice(start, size), samples, temperature)
            measured.update(sampled.measured)
            rows = counted(sampled.answers)
            rates += [row["right"] / row["judged"] for row in rows if row["judged"]]
            write(pa.Table.from_pylist(rows, schema=RATES))
    found = np.array(rates)
    said = {
        "problems": len(training),
        "samples_per_problem": samples,
        "pass_rate_mean": float(found.mean()) if len(found) else None,
        "never": float((found == 0).mean()) if len(found) else None,
        "always": float((found == 1).mean()) if len(found) else None,
    }
    write_json(job.out / "metrics.json", said)
    return {**measured, "seconds": time.perf_counter() - began}


def counted(answers: pa.Table) -> list[dict[str, Any]]:
    """Rows of ``RATES``: how many answers to each problem could be judged, and how many were right."""
    judged = pc.cast(pc.is_valid(answers["reward"]), pa.int32())
    right = pc.cast(pc.fill_null(pc.greater_equal(answers["reward"], CORRECT), False), pa.int32())
    table = pa.table({"problem_id": answers["problem_id"], "judged": judged, "right": right})
    sums = table.group_by("problem_id", use_threads=False).aggregate([("judged", "sum"), ("right", "sum")])
    return [
        {"problem_id": row["problem_id"], "judged": row["judged_sum"], "right": row["right_sum"]}
        for row in sums.to_pylist()
    ]
