"""torch's elastic launcher as a process: ``python -m tasks.update.rank_agent PARENT FOLDER MACHINE``.

A rank that ends before its time ends them all: none is started again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from tasks.artefacts.artefact import write_json
from tasks.core.parent_death import die_with
from tasks.update.ranks import DEATH, GROUP


def main(parent: int, folder: Path, machine: int) -> None:
    """Start this machine's ranks and wait for all of them."""
    die_with(parent)
    group = json.loads((folder / GROUP).read_text())
    arguments = [f"--nnodes={group['machines']}", f"--nproc-per-node={group['ranks']}", "--max-restarts=0"]
    if group["meeting"] is None:
        arguments += ["--rdzv-backend=c10d", f"--rdzv-endpoint={folder / 'rendezvous'}"]
        arguments += ["--rdzv-conf=store_type=file"]
    else:
        host, _, port = group["meeting"].rpartition(":")
        arguments += [f"--node-rank={machine}", f"--master-addr={host}", f"--master-port={port}"]
    module = ["--rdzv-id=update", "--module", "tasks.update.rank_worker", str(folder)]
    try:
        run(parse_args([*arguments, *module]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        write_json(folder / DEATH, {"rank": rank, "code": failure.exitcode})
        sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
