"""``rollout``: this round's problems, answered by the policy and judged."""

from __future__ import annotations

import collections
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.artefact import write_json
from tasks.sampling import sample
from tasks.seeds import numpy_generator
from tasks.stage import Job
from tasks.tables import read_table, write_table

REASON_CHARACTERS = 80


def rollout(job: Job) -> dict[str, float]:
    """``model``, ``problems`` and ``policy`` into ``rollouts.parquet`` and ``metrics.json``.

    Where there is no policy yet, the base model answers.
    """
    began = time.perf_counter()
    choice = job.params.rollout
    training = read_table(job.inputs["problems"].file("train.parquet"))
    chosen = training.take(
        problems_of(job.params.seed, job.round, training.num_rows, choice.problems_per_round)
    )
    sampled = sample(job, "rollout", chosen, choice.samples_per_problem, choice.temperature)
    write_table(job.out / "rollouts.parquet", sampled.answers)
    write_json(job.out / "metrics.json", metrics(sampled.answers))
    return {**sampled.measured, "seconds": time.perf_counter() - began}


def problems_of(run_seed: int, round: int, count: int, batch: int) -> np.ndarray:
    """Positions of the problems of a round, counted from 1: the next of an order drawn anew each epoch.

    No problem comes twice in an epoch; the few that do not fill a last batch wait for the next one.
    """
    epoch, place = divmod(round - 1, max(1, count // batch))
    order = numpy_generator(run_seed, "rollout", 0, "epoch", epoch).permutation(count)
    return order[place * batch : (place + 1) * batch]


def metrics(answers: pa.Table) -> dict[str, Any]:
    """What the answers say of the policy. A mean over nothing is null."""
    lengths = pc.list_value_length(answers["response_ids"]).to_numpy()
    rewards = answers["reward"].drop_null().to_numpy()
    logp = pc.list_flatten(answers["behaviour_logp"]).to_numpy().astype(np.float64)
    errors = collections.Counter(
        error[:REASON_CHARACTERS] for error in answers["reward_error"].to_pylist() if error is not None
    )
    return {
        "responses": answers.num_rows,
        "reward_mean": float(rewards.astype(np.float64).mean()) if len(rewards) else None,
        "solved": float((rewards >= 1.0).mean()) if len(rewards) else None,
        "constant_groups": _constant_groups(answers),
        "unjudged": answers["reward"].null_count / answers.num_rows,
        "reward_errors": dict(sorted(errors.items())),
        "response_length_mean": float(lengths.mean()),
        "response_length_max": int(lengths.max()),
        "truncated": float(pc.mean(pc.equal(answers["finish_reason"], "length")).as_py()),
        "entropy_estimate": -float(logp.mean()),
    }


def _constant_groups(answers: pa.Table) -> float:
    """Share of the groups whose rewards are exactly equal: they teach nothing."""
    judged = answers.filter(answers["reward"].is_valid())
    extremes = judged.group_by("group").aggregate([("reward", "min"), ("reward", "max")])
    varied = pc.sum(pc.not_equal(extremes["reward_min"], extremes["reward_max"])).as_py() or 0
    return 1.0 - varied / len(pc.unique(answers["group"]))
