"""The problems of a benchmark: what a source holds out, all of it or so many, as ``held_out.parquet``."""

from __future__ import annotations

import sys
import time

import pyarrow as pa

from params.base import BadInput
from params.task import Task
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import PROBLEMS, write_table
from tasks.core.seeds import numpy_generator
from tasks.core.stage import Job
from tasks.problems.contract import ProblemSource, find_source


def benchmark(job: Job) -> dict[str, float]:
    """``held_out.parquet`` with at most ``task.held_out_count`` problems in the order of the source,
    ``train.parquet`` with what examples are drawn from, or nothing, and ``metrics.json`` with counts."""
    started = time.perf_counter()
    task = job.params.task
    source = find_source(task.problems.name, "task.problems")
    config = task.problems.resolve(source.Config, "task.problems")
    if source.held_out:
        found = source.held_out(config, task, job.out)
    elif task.held_out_count == sys.maxsize:
        raise BadInput(f"evaluate.sets: {source.name} makes problems without end; expected a count of them")
    else:
        few = task.model_copy(update={"train_count": 1})
        given = (config, few, job.params.seed)
        found = source.write(*given, job.out)[1] if source.write else source.tables(*given)[1]
    if found.num_rows > task.held_out_count:
        order = numpy_generator(job.params.seed, "problems", 0, "benchmark").permutation(found.num_rows)
        found = found.take(sorted(order[: task.held_out_count].tolist()))
    write_table(job.out / "held_out.parquet", found)
    write_table(job.out / "train.parquet", _solved(source, config, task, job.params.seed))
    write_json(job.out / "metrics.json", {"held_out": found.num_rows})
    return {"seconds": time.perf_counter() - started, "problems": float(found.num_rows)}


def _solved(source: ProblemSource, config: object, task: Task, seed: int) -> pa.Table:
    """Training problems for examples; none where there are none in a prompt. Raises ``BadInput``."""
    if not task.prompt.examples:
        return PROBLEMS.empty_table()
    aside = [getattr(config, name, None) for name in ("held_out_path", "held_out_split")]
    if hasattr(config, "held_out_path") and not any(aside):
        raise BadInput(
            "evaluate.sets: prompt.examples would be drawn from the problems that are asked; expected "
            "problems.held_out_path or held_out_split beside those to draw from"
        )
    few = task.model_copy(update={"train_count": task.prompt.examples + 1, "held_out_count": 1})
    return source.tables(config, few, seed)[0]
