"""``ostinato ranks``: this machine's ranks in the updates of a run that another machine makes."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from flows.environment import workspace
from params.base import BadInput
from tasks.artefacts.store import Store
from tasks.core.json_process import JsonProcess, ProcessFailure
from tasks.update.ranks import GROUP, launch_environment

LOOK_SECONDS = 0.5


def serve_ranks(name: str, machine: int) -> None:
    """Start ranks whenever the run does, until interrupted. Raises ``BadInput`` for a machine too many."""
    scratch = Store(workspace()).scratch_path(f"run-{name}")
    served: set[Path] = set()
    print(f"Waiting for run {name} to train; Ctrl-C ends it", flush=True)
    while True:
        for group in sorted(set(scratch.glob(f"ranks-*/{GROUP}")) - served):
            served.add(group)
            _serve(group, machine)
        time.sleep(LOOK_SECONDS)


def _serve(group: Path, machine: int) -> None:
    said = json.loads(group.read_text())
    if machine >= said["machines"]:
        raise BadInput(f"--machine {machine}: the run is on {said['machines']}; expected a smaller number")
    folder = group.parent
    command = [sys.executable, "-m", "tasks.update.rank_agent", str(os.getpid()), str(folder), str(machine)]
    log = folder / f"machine-{machine}.log"
    agent = JsonProcess(f"machine {machine}", command, launch_environment(said["meeting"]), log)
    print(f"{said['ranks']} ranks started (log: {log})", flush=True)
    try:
        agent.receive()
    except ProcessFailure as end:
        print(f"The run's ranks ended: {end.ended}", flush=True)
    finally:
        agent.close(0.0)
