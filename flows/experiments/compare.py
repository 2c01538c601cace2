"""A comparison of methods, by the laboratory's worker pool: methods × seeds, each run resuming by itself.

Runs lie under ``runs/NAME-METHOD-sSEED`` and share the workspace's cache: all methods of a seed stand on one
model and one set of problems, and on the same first rollouts unless a method samples differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flows.environment import workspace
from flows.execution.runner import run_directory, spelled
from flows.experiments.display import display
from flows.experiments.study import Made, Work, checked, make
from flows.experiments.worker_pool import Event, Run, WorkerPool
from params.base import BadInput, nearest
from params.compare import Comparison
from params.lab import Lab, trials
from tasks.report.study.study import Outcome

FOLDER = "comparisons"


def work_of(asked: Comparison) -> Work:
    """The study that a comparison is, checked. Raises ``BadInput``."""
    name, lab = asked.study()
    return Work(
        kind="compare",
        folder=FOLDER,
        name=name,
        lab=lab,
        trials=trials(name, lab, asked.settings),
        command=spelled(["compare", *asked.arguments()]),
        workers=asked.workers,
        writer="tasks.report.comparison.page",
        write=_write,
    )


def run_compare(
    asked: Comparison, as_json: bool = False, listen: Callable[[Run, Event], None] | None = None
) -> Made:
    """Make a comparison and write ``comparisons/NAME``. Raises ``BadInput``."""
    return make(work_of(asked), as_json, listen)


def run_one(asked: Comparison, only: str, as_json: bool = False) -> int:
    """Make one run of a comparison, ``METHOD:SEED``, and its report, without the page: for DVC's matrix.

    Returns the exit code. Raises ``BadInput``.
    """
    from tasks.report.run.page import write

    work = work_of(asked)
    names = {f"{trial.arm}:{trial.seed}": trial for trial in checked(work.trials)}
    if only not in names:
        raise BadInput(f"--only {only}: no such run{nearest(only, names)}")
    root, run = workspace(), Run(names[only])
    title = f"compare {work.name}"
    with display(title, [run], 1, as_json) as shown, WorkerPool(root, work.name, [run], 1) as pool:
        for each, event in pool.events():
            shown.tell(each, event)
    if run.outcome == "finished":
        write(run_directory(root, run.trial.name))
    return int(run.outcome != "finished")


def _write(lab: Lab, outcomes: Sequence[Outcome], facts: dict[str, Any], out: Path) -> list[str]:
    from tasks.report.comparison.page import write  # what draws it is not needed before

    return write(lab, outcomes, facts, out)
