"""A comparison: every arm with every seed, each run resuming by itself, and one page of what came out.

``ostinato compare`` makes one of the names of methods, ``ostinato lab`` one that is kept in a file, a study.
Each run is an ordinary one under ``runs/NAME-ARM-sSEED`` and shares the workspace's cache, so that
``ostinato status``, ``show`` and ``report`` know it, and so that arms share whatever does not depend on what
tells them apart: a seed's model, its problems, its first rollouts.

The runs go through worker processes that run the plain stage loop, without Prefect. A stage of nano is
short: Prefect adds some 90 ms to each, and some 10 s to each start. What it gives beyond that is here anyway:
artefacts are whole or absent, the cache is on disk, and each artefact is made under a lock of its own, so
that two workers that need the same one make it once. Arms are handed out one after the other with all their
seeds: what runs at the same time has different seeds, and hardly ever waits for such a lock.

Where machines share a remote (``store.share``), each begins at a place of its own in that order and leaves
aside, for a while, a run that another one is at.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.environment import workspace
from flows.execution.first_look import look
from flows.execution.remote_settings import settings_of
from flows.execution.runner import run_directory, spelled
from flows.execution.source import SOURCE
from flows.execution.validation import settled
from flows.experiments.display import Display, display
from flows.experiments.worker_pool import Run, WorkerPool
from flows.planner.disk_gate import check_disk, check_disk_of_all
from flows.planner.memory_gate import check_memory
from flows.stage_table.stages import stage_table, table_of
from params.base import BadInput, nearest
from params.compare_options import CompareOptions
from params.comparison import Comparison, Trial, narrowed, read_study, trials
from tasks.artefacts.artefact import Artefact, Source, canonical, seal
from tasks.artefacts.record import Record
from tasks.artefacts.role import Role
from tasks.artefacts.store import Store

FOLDER = "comparisons"
"""Where comparisons lie in the workspace."""
WRITER = "tasks.report.comparison.page"
"""The module that writes one; its source counts for the artefact's fingerprint."""


@dataclass(frozen=True)
class Work:
    """A comparison that is to be made."""

    name: str
    comparison: Comparison
    trials: Sequence[Trial]
    command: str
    """The command line that repeats it."""
    workers: int


@dataclass(frozen=True)
class Made:
    """A comparison that was made."""

    place: Path | None
    """None where no run came to its end."""
    runs: Sequence[Run]

    def code(self) -> int:
        """The exit code: 1 where a run failed."""
        return int(any(run.outcome == "failed" for run in self.runs))


def work_of_methods(options: CompareOptions) -> Work:
    """What ``ostinato compare`` makes. Raises ``BadInput``."""
    name, comparison = options.comparison()
    runs = trials(name, comparison, options.settings)
    return Work(name, comparison, runs, spelled(["compare", *options.arguments()]), options.workers)


def work_of_study(
    study: str, seeds: int | None, arms: str | None, settings: Sequence[str], workers: int
) -> Work:
    """What ``ostinato lab`` makes; ``arms`` are names with commas between. Raises ``BadInput``."""
    name, comparison = read_study(study)
    chosen = [arm.strip() for arm in arms.split(",")] if arms else None
    comparison = narrowed(comparison, chosen, seeds)
    made = trials(name, comparison, settings)
    known = {*stage_table(), *(row for trial in made for row in table_of(trial.params))}
    for metric in comparison.wanted():
        stage = metric.partition(".")[0]
        if stage not in known:
            raise BadInput(f"{name}: metrics.{metric}: no stage '{stage}'{nearest(stage, known)}")
    words = ["lab", study, *(["--seeds", str(seeds)] if seeds else []), *(["--arms", arms] if arms else [])]
    words += [part for setting in settings for part in ("--set", setting)]
    return Work(name, comparison, made, spelled(words), workers)


def make(work: Work, as_json: bool = False, shown: Display | None = None) -> Made:
    """Make every run and write ``comparisons/NAME``; each run resumes by itself. Raises ``BadInput``.

    ``shown`` is told what happens, instead of the terminal.
    """
    root, began = workspace(), time.monotonic()
    runs = [Run(trial) for trial in _checked(work.trials)]
    busy = f"comparison {work.name}: another process is at it; wait for it"
    with Store(root).lock(f"comparison-{work.name}", busy):
        shown = _run(work, runs, as_json, shown)
        if all(run.outcome == "failed" for run in runs):
            print(f"ostinato: {work.name}: no run came to its end", file=sys.stderr)
            return Made(None, runs)
        place = write(root, work, runs, time.monotonic() - began)
        shown.conclude(place)
    return Made(place, runs)


def make_one(work: Work, only: str, as_json: bool = False) -> int:
    """Make one run of a comparison, ``ARM:SEED``, and its report, without the page: for DVC's matrix.

    Returns the exit code. Raises ``BadInput``.
    """
    from tasks.report.run.page import write

    names = {f"{trial.arm}:{trial.seed}": trial for trial in work.trials}
    if only not in names:
        raise BadInput(f"--only {only}: no such run{nearest(only, names)}")
    (trial,) = _checked([names[only]])
    run = Run(trial)
    _run(work, [run], as_json)
    if run.outcome == "finished":
        write(run_directory(workspace(), run.trial.name))
    return int(run.outcome != "finished")


def _run(work: Work, runs: Sequence[Run], as_json: bool, given: Display | None = None) -> Display:
    """Make these runs of it, with the display that is given or one of its own."""
    with (
        nullcontext(given) if given else display(work.name, runs, work.workers, as_json) as shown,
        WorkerPool(workspace(), work.name, _in_turn(runs), work.workers) as pool,
    ):
        for run, event in pool.events():
            shown.tell(run, event)
    return shown


def _in_turn(runs: Sequence[Run]) -> Sequence[Run]:
    """In the order in which this machine takes them: where several share, from a place of its own."""
    store, settings = Store(workspace()), settings_of(workspace(), runs[0].trial.params.store)
    if settings is None or not settings.share:
        return runs
    first = int(store.identity(), 16) % len(runs)
    return [*runs[first:], *runs[:first]]


def _checked(chosen: Sequence[Trial]) -> list[Trial]:
    """Every run with its parts checked, before any begins. Raises ``BadInput``."""
    found = []
    for trial in chosen:
        try:
            params = settled(trial.params)
            check_memory(params)
            if trial.budget is None:  # else nobody knows how many rounds it takes
                check_disk(params)
            if trial.seed == chosen[0].seed:  # the others read the same files
                look(params)
            found.append(replace(trial, params=params))
        except BadInput as error:
            raise BadInput(f"{trial.name}: {error}") from None
    check_disk_of_all([trial.params for trial in found if trial.budget is None])
    return found


def write(root: Path, work: Work, runs: Sequence[Run], seconds: float) -> Path:
    """Write the runs that came to their end as an artefact, whole or not at all; its place."""
    from tasks.report.comparison.data import Outcome  # what draws it is not needed before

    outcomes = []
    for run in runs:
        if run.outcome in ("finished", "diverged"):
            directory = run_directory(root, run.trial.name)
            rounds = int(Record.read(directory).params["rounds"])
            outcomes.append(
                Outcome(run.trial.arm, run.trial.seed, directory, rounds, run.outcome == "diverged")
            )
    facts = {"name": work.name, "command": work.command, "runs": [run.facts() for run in runs]}
    return write_outcomes(root, work.comparison, outcomes, facts, seconds)


def write_outcomes(
    root: Path, comparison: Comparison, outcomes: Sequence[Any], facts: dict[str, Any], seconds: float
) -> Path:
    """The same of outcomes; ``facts``: its ``name``, ``command`` and what is told of each of its ``runs``."""
    from tasks.report.comparison import page

    comparison = comparison.model_copy(update={"rounds": max(outcome.rounds for outcome in outcomes)})
    params, inputs = comparison.model_dump(mode="json"), _inputs([each.directory for each in outcomes])
    code = SOURCE.digests(SOURCE.closure((WRITER,)))
    identity = {"stage": "comparison", "params": params, "inputs": {k: v.digest for k, v in inputs.items()}}

    def build(new: Path) -> None:
        page.write(comparison, outcomes, facts, new)
        seal(
            new,
            stage="comparison",
            role=Role(kind="measure", label="comparison"),
            round=comparison.rounds,
            fingerprint=hashlib.sha256(canonical({**identity, "code": code})).hexdigest(),
            seed=0,
            params=params,
            inputs=inputs,
            code=code,
            versions={},
            measured={"seconds": seconds, "runs": float(len(outcomes))},
        )

    place = root / FOLDER / str(facts["name"])
    Store(root).put(place, build)
    return place


def _inputs(directories: Sequence[Path]) -> dict[str, Source]:
    """The last artefact of each run and stage, from which its history leads back to the problems."""
    found = {}
    for directory in directories:
        last = {step.stage: step for step in Record.read(directory).steps}
        for stage, step in last.items():
            if step.round:
                made = Artefact.open(directory / step.place, check=False)
                place = f"{directory.name}/{step.place}"
                found[place] = Source(stage=stage, fingerprint=made.fingerprint, digest=made.digest)
    return found
