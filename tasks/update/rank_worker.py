"""One rank of an update: ``python -m tasks.update.rank_worker FOLDER``, as torch's launcher starts it.

The first rank prints JSON lines: progress, ``{"tell": [...]}``, and at the end ``{"measured": {...}}``.
Whatever else is printed goes to the log.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from params.errors import OstinatoError
from params.schema import Params
from tasks.artefacts.artefact import Artefact, write_json
from tasks.core.context import Context
from tasks.core.errors import memory_errors
from tasks.core.json_worker import Parent
from tasks.core.stage import Job
from tasks.policy import distributed
from tasks.update.ranks import COMPLAINT, JOB
from tasks.update.update import train


def main(folder: Path) -> None:
    """Train this rank's shard."""
    parent = Parent(os.getppid())
    facts = json.loads((folder / JOB).read_text())
    params = Params.model_validate(facts["params"])
    torch.set_num_threads(max(1, (params.threads or os.cpu_count() or 1) // params.update.ranks))
    distributed.join(str(folder / "meeting"), params.update.rank_timeout)

    def say(**message: Any) -> None:
        if distributed.rank() == 0:
            parent.send(message)

    def tell(*progress: Any) -> None:
        say(tell=progress)

    inputs = {name: Artefact.open(Path(path), check=False) for name, path in facts["inputs"].items()}
    with Context(scratch=folder, tell=tell) as context:
        try:
            with memory_errors(f"update, rank {distributed.rank()}"):
                measured = train(Job(params, facts["round"], inputs, Path(facts["out"]), context))
        except OstinatoError as error:
            write_json(folder / COMPLAINT, {"kind": type(error).__name__, "message": str(error)})
            sys.exit(1)
        say(measured=measured)
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
