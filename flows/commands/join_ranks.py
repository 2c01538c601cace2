"""``ostinato ranks``: this machine's ranks in the updates of a run that another machine makes."""

from __future__ import annotations

import json
import time
from pathlib import Path

from flows.environment import workspace
from tasks.artefacts.store import Store
from tasks.core.json_process import ProcessFailure
from tasks.update.ranks import GROUP, join, machine_log

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
    agent = join(group.parent, machine)
    ranks = json.loads(group.read_text())["ranks"]
    print(f"{ranks} ranks started (log: {machine_log(group.parent, machine)})", flush=True)
    try:
        agent.receive()
    except ProcessFailure as end:
        print(f"The run's ranks ended: {end.ended}", flush=True)
    finally:
        agent.close(0.0)
