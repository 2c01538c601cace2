"""The stage ``replay``: this round's rollouts folded into a snapshot of the replay buffer."""

from __future__ import annotations

import time
from typing import Any

from algorithms.replay_buffer import Evicted, ReplayBuffer
from tasks.artefact import write_json
from tasks.stage import Job
from tasks.tables import REPLAY, read_table, write_table

BUFFER = "buffer.parquet"


def replay(job: Job) -> dict[str, float]:
    """``rollout`` and the previous snapshot ``replay``, if there is one, into ``buffer.parquet``.

    Writes ``metrics.json``: rows, and by birth round what stayed, what left and why. Reads ``params.replay``.
    """
    began = time.perf_counter()
    previous = job.inputs.get("replay")
    before = read_table(previous.file(BUFFER)) if previous else REPLAY.empty_table()
    buffer = ReplayBuffer.from_table(before, job.params.replay)
    fresh = read_table(job.inputs["rollout"].file("rollouts.parquet"))
    fates = buffer.admit(fresh, job.round)
    evicted = buffer.evict(job.round)
    write_table(job.out / BUFFER, buffer.to_table().cast(REPLAY))
    write_json(job.out / "metrics.json", _metrics(buffer, fates, evicted))
    job.context.tell("replay", 1, 1, {"rows": float(len(buffer))})
    return {"seconds": time.perf_counter() - began}


def _metrics(buffer: ReplayBuffer, fates: dict[str, int], evicted: Evicted) -> dict[str, Any]:
    kept = buffer.cohorts()
    cohorts = {
        str(born): {"kept": kept.get(born, 0), "dropped": evicted.get(born, {})}
        for born in sorted(kept.keys() | evicted.keys())
    }
    return {
        "rows": len(buffer),
        "offered": sum(fates.values()),
        "admitted": fates.get("admitted", 0),
        "refused": {why: count for why, count in fates.items() if why != "admitted"},
        "cohorts": cohorts,
    }
