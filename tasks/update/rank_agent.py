"""torch's elastic launcher as a process: ``python -m tasks.update.rank_agent PARENT COUNT FOLDER``.

A rank that ends before its time ends them all: none is started again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from tasks.artefacts.artefact import write_json
from tasks.core.parent_death import die_with
from tasks.update.ranks import DEATH


def main(parent: int, count: int, folder: Path) -> None:
    """Start the ranks and wait for all of them."""
    die_with(parent)
    arguments = [
        *("--nnodes=1", f"--nproc-per-node={count}", "--max-restarts=0"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={folder / 'rendezvous'}", "--rdzv-conf=store_type=file"),
        *("--rdzv-id=update", "--module", "tasks.update.rank_worker", str(folder)),
    ]
    try:
        run(parse_args(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        write_json(folder / DEATH, {"rank": rank, "code": failure.exitcode})
        sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
