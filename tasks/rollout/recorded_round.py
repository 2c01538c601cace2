"""The stage ``rollout`` of a run that learns from another run's rollouts."""

from __future__ import annotations

import shutil
import time

import pyarrow.compute as pc

from params.base import BadInput
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import read_table, sampled_lengths
from tasks.core.stage import Job
from tasks.rollout.rollout import metrics


def recorded_round(job: Job) -> dict[str, float]:
    """``recorded``, the other run's rollout of the same round, into the same files, as it is.

    Its log-probabilities are those of the policy that sampled it, so that the update sees how far off-policy
    it is. Raises ``BadInput`` where it answers other problems, or lacks what the method compares.
    """
    began = time.perf_counter()
    given, wanted = job.inputs["recorded"], job.params.rollout
    where = f"rollout.recorded: {wanted.recorded}: round {job.round}"
    for name in ("model", "problems"):
        made = given.manifest.inputs.get(name)
        if made is None or made.digest != job.inputs[name].digest:
            raise BadInput(f"{where} was sampled with another {name}; expected this run's")
    answers = read_table(given.file("rollouts.parquet"))
    told = given.manifest.params.get("rollout") or {}
    for name in ("temperature", "top_logprobs", "entropy"):
        if told.get(name, getattr(wanted, name)) != getattr(wanted, name):
            raise BadInput(f"{where} has {name} {told[name]}; expected {getattr(wanted, name)}, as here")
    shutil.copyfile(given.file("rollouts.parquet"), job.out / "rollouts.parquet")
    write_json(job.out / "metrics.json", metrics(answers))
    tokens = float(pc.sum(sampled_lengths(answers)).as_py())
    return {"sampled_tokens": tokens, "reused_tokens": tokens, "seconds": time.perf_counter() - began}
