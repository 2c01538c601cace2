"""The stage ``model``: the base model as a plain folder."""

from __future__ import annotations

import importlib
import time

from transformers.utils import logging

from tasks.core.stage import Job
from tasks.prepare import model_sources, nano, warm_start


def model(job: Job) -> dict[str, float]:
    """A plain Hugging Face folder: ``config.json``, ``*.safetensors``, tokenizer, chat template."""
    started = time.perf_counter()
    measured: dict[str, float] = {}

    def tell(step: int, steps: int, loss: float) -> None:
        job.context.tell("warm start", step, steps, {"loss": loss})

    logging.disable_progress_bar()
    if job.params.model.source == "nano":
        nano.save(warm_start.warm_started(job.params, tell), job.out)
        model_sources.clean(job.out)
        measured["warm_start_steps"] = float(job.params.model.warm_start_steps)
    else:
        model_sources.fetch(job.params, job.out)
    if job.params.model.bits == 4:
        importlib.import_module("tasks.policy.four_bits").round_folder(job.out, job.params)
    weights = sum(path.stat().st_size for path in job.out.glob("*.safetensors"))
    return {**measured, "seconds": time.perf_counter() - started, "weight_bytes": float(weights)}
