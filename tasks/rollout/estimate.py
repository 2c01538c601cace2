"""The stage ``estimate``: how often the base model solves each training problem; and which are asked."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from algorithms.correct import CORRECT
from params.base import BadInput
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import read_table, table_writer
from tasks.core.seeds import numpy_generator
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
            rows = _counted(sampled.answers)
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


def chosen(job: Job, training: pa.Table) -> pa.Table:
    """The training problems that the curriculum asks, in its order where it has one. Raises ``BadInput``
    where they do not fill a round."""
    settings = job.params.curriculum
    if settings is None:
        return training
    rates = {
        row["problem_id"]: row["right"] / row["judged"]
        for row in read_table(job.inputs["estimate"].file(TABLE)).to_pylist()
        if row["judged"]
    }
    above, below = settings.above, settings.below
    fits = [name in rates and above < rates[name] < below for name in training["problem_id"].to_pylist()]
    kept, least = training.filter(pa.array(fits, pa.bool_())), job.params.rollout.problems_per_round
    if len(kept) < least:
        raise BadInput(
            f"curriculum: {len(kept)} of {len(training)} training problems have a pass rate above {above:g} "
            f"and below {below:g}; expected at least rollout.problems_per_round, {least}"
        )
    if settings.order == "random":
        return kept
    order = numpy_generator(job.params.seed, "rollout", 0, "curriculum").permutation(len(kept))
    falling = np.array([-rates[name] for name in kept["problem_id"].to_pylist()])
    return kept.take(order[np.argsort(falling[order], kind="stable")])


def _counted(answers: pa.Table) -> list[dict[str, Any]]:
    judged = pc.cast(pc.is_valid(answers["reward"]), pa.int32())
    right = pc.cast(pc.fill_null(pc.greater_equal(answers["reward"], CORRECT), False), pa.int32())
    table = pa.table({"problem_id": answers["problem_id"], "judged": judged, "right": right})
    sums = table.group_by("problem_id", use_threads=False).aggregate([("judged", "sum"), ("right", "sum")])
    return [
        {"problem_id": row["problem_id"], "judged": row["judged_sum"], "right": row["right_sum"]}
        for row in sums.to_pylist()
    ]
