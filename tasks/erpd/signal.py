"""``signal``: what the teachers say of each token of a round's answers."""

from __future__ import annotations

import time

import pyarrow as pa

from algorithms.erpd import deviation
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import read_table, write_table
from tasks.core.stage import Job
from tasks.erpd.teacher_signal import choose, compared, look
from tasks.erpd.training import Material, held_out
from tasks.policy.job_policy import job_policy

SIGNALS = pa.schema(
    [
        pa.field("group", pa.int32(), nullable=False),  # with sample: the row of the rollouts
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("base_logp", pa.list_(pa.float32()), nullable=False),  # of the round's base, in nats
        pa.field("raw", pa.list_(pa.float32()), nullable=False),  # log-ratio of teacher to reference, in nats
        pa.field("signal", pa.list_(pa.float32()), nullable=False),  # without its mean under the base
    ]
)


def signal(job: Job) -> dict[str, float]:
    """``model``, ``rollout``, the round's base ``policy``, ``teach`` and ``unlearn`` into ``signal.parquet``.

    A row for each row of the rollouts, in their order. ``metrics.json`` tells the mode, the evidence for it,
    the teachers' divergences from the base (nats per token, over the whole vocabulary and the states of the
    answers), and by teacher its ``factors`` in the whole.
    """
    began = time.perf_counter()
    assert job.params.distil is not None
    policy = job_policy(job)
    table = read_table(job.inputs["rollout"].file("rollouts.parquet"))
    prompts, responses = table["prompt_ids"].to_pylist(), table["response_ids"].to_pylist()
    views = look(job, policy, prompts, responses)
    lengths = [len(response) for response in responses]
    answers = Material.of(table, list(views.base_logp.split(lengths)))
    unseen = held_out(job.params, job.round, table)
    choice = choose(views, job.params.distil, answers, unseen)
    pair = views.combined(compared(choice.mode), choice.factors)
    columns = {"base_logp": views.base_logp, "raw": pair.raw, "signal": pair.centred}
    made = {n: [part.tolist() for part in x.float().split(lengths)] for n, x in columns.items()}
    write_table(
        job.out / "signal.parquet",
        pa.table({"group": table["group"], "sample": table["sample"], **made}, schema=SIGNALS),
    )
    said = {
        "mode": choice.mode,
        "asked": job.params.distil.signal.mode,
        **choice.evidence,
        "factors": choice.factors,
        "std": deviation(pair.centred),
        "raw_mean": float(pair.raw.double().mean()),
        "mean": float(pair.centred.double().mean()),
        "held_out_problems": len(unseen),
        "teachers": views.divergence,
    }
    write_json(job.out / "metrics.json", said)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens_per_second": len(views.base_logp) / seconds}
