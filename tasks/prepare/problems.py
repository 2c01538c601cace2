"""The stage ``problems``: training and held-out problems from the chosen source."""

from __future__ import annotations

import collections
import time

import pyarrow.compute as pc

from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import write_table
from tasks.core.stage import Job
from tasks.problems.contract import find_source


def problems(job: Job) -> dict[str, float]:
    """``train.parquet`` and ``held_out.parquet`` (``tables.PROBLEMS``), ``metrics.json`` with counts,
    and what the source writes beside them."""
    started = time.perf_counter()
    task = job.params.task
    source = find_source(task.problems.name, "task.problems.name")
    config = task.problems.resolve(source.Config, "task.problems")
    if source.write:
        train, held_out = source.write(config, task, job.params.seed, job.out)
    else:
        train, held_out = source.tables(config, task, job.params.seed)
    write_table(job.out / "train.parquet", train)
    write_table(job.out / "held_out.parquet", held_out)
    levels = collections.Counter(train["level"].to_pylist() + held_out["level"].to_pylist())
    shown = pc.sum(pc.greater(pc.list_value_length(train["demonstrations"]), 0)).as_py()
    counts = {"train": train.num_rows, "held_out": held_out.num_rows, "demonstrated": shown or 0}
    write_json(job.out / "metrics.json", {**counts, **{f"level_{k}": n for k, n in sorted(levels.items())}})
    return {"seconds": time.perf_counter() - started, "problems": float(train.num_rows + held_out.num_rows)}
