"""One update by several processes: torch's elastic launcher starts them, each trains its shard.

Parent, launcher and ranks meet in files of one folder: no port is opened but gloo's or NCCL's own, on the
loopback interface. Whatever ends the parent or the launcher ends the ranks.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from params.base import BadInput
from tasks.artefacts.artefact import write_json
from tasks.core.errors import NotFinite, StageFailure
from tasks.core.json_process import JsonProcess, ProcessFailure, ending, environment
from tasks.core.stage import Job

JOB = "job.json"
LOG = "ranks.log"
DEATH = "death.json"
"""Which rank ended first, and how, by the launcher's account."""
COMPLAINT = "complaint.json"
"""What a rank had to say that ends in one line."""

_ERRORS = {kind.__name__: kind for kind in (BadInput, StageFailure, NotFinite)}


def launched(job: Job) -> dict[str, float]:
    """``tasks.update.update.train`` on ``update.ranks`` processes of this machine; what the first measured.

    Raises what they raise, and ``StageFailure`` where one of them dies.
    """
    count = job.params.update.ranks
    if torch.cuda.is_available() and torch.cuda.device_count() < count:
        raise BadInput(
            f"update.ranks: {count}, but this machine has {torch.cuda.device_count()} GPUs; "
            "expected at most one rank a GPU"
        )
    folder = Path(tempfile.mkdtemp(prefix="ranks-", dir=job.context.scratch))
    facts = {
        "params": job.params.model_dump(mode="json"),
        "round": job.round,
        "inputs": {name: str(artefact.path.resolve()) for name, artefact in job.inputs.items()},
        "out": str(job.out.resolve()),
    }
    write_json(folder / JOB, facts)
    measured: dict[str, float] = {}
    command = [sys.executable, "-m", "tasks.update.rank_agent", str(os.getpid()), str(count), str(folder)]
    launcher = JsonProcess("update", command, _environment(), folder / LOG)
    try:
        while True:
            message = launcher.receive()
            if "tell" in message:
                job.context.tell(*message["tell"])
            else:
                measured = message["measured"]
    except ProcessFailure as end:
        if end.code != 0 or not measured:
            raise _failure(folder, count, end) from None
        return measured
    finally:
        launcher.close(0.0)  # the ranks die with it


def _environment() -> dict[str, str]:
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    ours = {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback, "OMP_NUM_THREADS": "1"}
    no_store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # it would listen on every interface
    return {**ours, **environment(**no_store)}


def _failure(folder: Path, count: int, end: ProcessFailure) -> Exception:
    complaint, death = (_read(folder / name) for name in (COMPLAINT, DEATH))
    if complaint:
        return _ERRORS.get(complaint["kind"], StageFailure)(complaint["message"])
    if not death:
        return StageFailure(f"update: the launcher ended with {end.ended} (log: {folder / LOG})")
    return StageFailure(
        f"update: rank {death['rank']} of {count} ended with {ending(death['code'])} (log: {folder / LOG})"
    )


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}
