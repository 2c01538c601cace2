"""``prepare``: the problems and the base model."""

from __future__ import annotations

import collections
import time

from transformers.utils import logging

from tasks import problems as sources_of_problems
from tasks.artefact import write_json
from tasks.policy import nano, sources, warm_start
from tasks.stage import Job
from tasks.tables import write_table


def problems(job: Job) -> dict[str, float]:
    """``train.parquet`` and ``held_out.parquet`` (``tables.PROBLEMS``), ``metrics.json`` with counts,
    and what the source writes beside them."""
    started = time.perf_counter()
    task = job.params.task
    source = sources_of_problems.find(task.problems.name, "task.problems.name")
    config = task.problems.resolve(source.Config, "task.problems")
    if hasattr(source, "write"):
        train, held_out = source.write(config, task, job.params.seed, job.out)
    else:
        train, held_out = source.read(config, task, job.params.seed)
    write_table(job.out / "train.parquet", train)
    write_table(job.out / "held_out.parquet", held_out)
    levels = collections.Counter(train["level"].to_pylist() + held_out["level"].to_pylist())
    counts = {"train": train.num_rows, "held_out": held_out.num_rows}
    write_json(job.out / "metrics.json", {**counts, **{f"level_{k}": n for k, n in sorted(levels.items())}})
    return {"seconds": time.perf_counter() - started, "problems": float(train.num_rows + held_out.num_rows)}


def model(job: Job) -> dict[str, float]:
    """A plain Hugging Face folder: ``config.json``, ``*.safetensors``, tokenizer, chat template."""
    started = time.perf_counter()
    measured: dict[str, float] = {}
    logging.disable_progress_bar()
    if job.params.model.source == "nano":
        measured = _nano(job)
    else:
        sources.fetch(job.params, job.out)
    weights = sum(path.stat().st_size for path in job.out.glob("*.safetensors"))
    return {**measured, "seconds": time.perf_counter() - started, "weight_bytes": float(weights)}


def _nano(job: Job) -> dict[str, float]:
    """``nano``, warm-started on problems like those of the job's task."""

    def tell(step: int, steps: int, loss: float) -> None:
        job.context.tell("warm start", step, steps, {"loss": loss})

    nano.save(warm_start.warm_started(job.params, tell), job.out)
    sources.clean(job.out)
    return {"warm_start_steps": float(job.params.model.warm_start_steps)}
