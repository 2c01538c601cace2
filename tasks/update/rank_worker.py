"""One rank of a run's updates: ``python -m tasks.update.rank_worker FOLDER``, as torch's launcher starts it.

It waits for one job after the other in the folder, and keeps the model between them. The first rank prints
JSON lines: progress, ``{"tell": [...]}``, and at the end of each job ``{"measured": {...}}``. Whatever else
is printed goes to the log.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from params.errors import OstinatoError
from params.schema import Params
from tasks.artefacts.artefact import Artefact, write_json
from tasks.core.context import Context
from tasks.core.errors import memory_errors
from tasks.core.json_worker import Parent
from tasks.core.memory import give_back
from tasks.core.stage import Job
from tasks.policy import distributed
from tasks.policy.policy import release_gpu
from tasks.update.ranks import COMPLAINT, GROUP, JOB
from tasks.update.update import train

LOOK_SECONDS = 0.05
"""Between two looks for the next job."""
ALIVE_SECONDS = 5.0
"""Between two looks, while there is none, whether the first machine is there."""


def main(folder: Path) -> None:
    """Train this rank's shard in every job."""
    parent = Parent(os.getppid())
    group = json.loads((folder / GROUP).read_text())
    torch.set_num_threads(group["threads"])
    meeting = None if group["meeting"] is not None else str(folder / "meeting")
    distributed.join(meeting, group["rank_timeout"])

    def say(**message: Any) -> None:
        if distributed.rank() == 0:
            parent.send(message)

    def tell(*progress: Any) -> None:
        say(tell=progress)

    with Context(scratch=folder, tell=tell) as context:
        for number in itertools.count(1):
            facts = _next_job(folder / JOB.format(number))
            inputs = {name: Artefact.open(Path(path), check=False) for name, path in facts["inputs"].items()}
            params = Params.model_validate(facts["params"])
            try:
                with memory_errors(f"update, rank {distributed.rank()}"):
                    measured = train(Job(params, facts["round"], inputs, Path(facts["out"]), context))
            except OstinatoError as error:
                write_json(folder / COMPLAINT, {"kind": type(error).__name__, "message": str(error)})
                sys.exit(1)
            release_gpu()
            give_back()
            distributed.wait_for_all()
            say(measured=measured)


def _next_job(path: Path) -> dict[str, Any]:
    looked = time.monotonic()
    while not path.exists():
        time.sleep(LOOK_SECONDS)
        if time.monotonic() - looked > ALIVE_SECONDS:
            looked = time.monotonic()
            distributed.check_alive()
    return dict(json.loads(path.read_text()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
