"""The stage ``pool``: right answers of an earlier run's policy to the training problems, for replay."""

from __future__ import annotations

import time

import pyarrow as pa
import pyarrow.compute as pc

from algorithms.replay_buffer import ReplayBuffer
from params.base import BadInput
from params.schema import Replay
from tasks.core.stage import Job
from tasks.replay.replay import write_pool
from tasks.rollout.prompts import askable
from tasks.rollout.sampling import sample

FEWEST = 2
"""A problem with fewer right answers is left out (RLEP, arXiv 2507.07451, section 3)."""


def pool(job: Job) -> dict[str, float]:
    """``model``, ``problems`` and the earlier run's ``policy`` into a snapshot as the stage ``replay`` makes.

    Raises ``BadInput`` where the policy was trained from another base model.
    """
    began = time.perf_counter()
    choice, policy = job.params.replay, job.inputs["policy"]
    base = policy.manifest.inputs.get("model")
    if base is not None and base.digest != job.inputs["model"].digest:
        raise BadInput(
            f"replay.pool: {choice.pool} was trained from another base model; expected that of this run"
        )
    top = job.params.rollout.top_logprobs
    sampled = sample(job, "pool", askable(job).train, choice.pool_samples, choice.pool_temperature, top)
    buffer = ReplayBuffer(Replay(admit="correct", per_problem=choice.pool_samples))
    fates = buffer.admit(sampled.answers, job.round)
    rows = _often_right(buffer.to_table())
    write_pool(job, buffer, rows, fates)
    return {**sampled.measured, "seconds": time.perf_counter() - began}


def _often_right(rows: pa.Table) -> pa.Table:
    """The rows of problems that have at least ``FEWEST``."""
    counts = rows.group_by("problem_id").aggregate([("sample", "count")])
    often = counts.filter(pc.greater_equal(counts["sample_count"], FEWEST))["problem_id"]
    return rows.filter(pc.is_in(rows["problem_id"], value_set=often.combine_chunks()))
