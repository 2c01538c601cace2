"""What makes the runs of a study and writes what they say together: a laboratory's study, or a comparison."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.environment import workspace
from flows.execution.runner import run_directory
from flows.execution.source import SOURCE
from flows.execution.validation import settled
from flows.experiments.display import display
from flows.experiments.worker_pool import Event, Run, WorkerPool
from params.base import BadInput
from params.lab import Lab, Trial
from tasks.artefacts.artefact import Artefact, Source, canonical, seal
from tasks.artefacts.record import Record
from tasks.artefacts.role import Role
from tasks.artefacts.store import Store
from tasks.report.study.study import Outcome

ROLE = Role(kind="measure", label="study")

Write = Callable[[Lab, Sequence[Outcome], dict[str, Any], Path], list[str]]
"""Fills a directory with what the runs say; returns a line for each thing that a person should know."""


@dataclass(frozen=True)
class Work:
    """A study that is to be made."""

    kind: str
    """The command that makes it: ``lab`` or ``compare``."""
    folder: str
    """Where its artefact lies in the workspace, beside others of its kind."""
    name: str
    lab: Lab
    trials: Sequence[Trial]
    command: str
    """The command line that repeats it."""
    workers: int
    writer: str
    """The module that ``write`` is of; its source counts for the artefact's fingerprint."""
    write: Write


@dataclass(frozen=True)
class Made:
    """A study that was made."""

    place: Path | None
    """None where no run came to its end."""
    runs: Sequence[Run]

    def code(self) -> int:
        """The exit code: 1 where a run failed."""
        return int(any(run.outcome == "failed" for run in self.runs))


def make(work: Work, as_json: bool, listen: Callable[[Run, Event], None] | None = None) -> Made:
    """Make every run and write the study; each run resumes by itself. Raises ``BadInput``.

    ``listen`` is told what happens, instead of the terminal.
    """
    root = workspace()
    busy = f"{work.kind} {work.name}: another process is at it; wait for it"
    chosen = checked(work.trials)
    began = time.monotonic()
    with Store(root).lock(f"{work.kind}-{work.name}", busy):
        runs = [Run(trial) for trial in chosen]
        title = f"{work.kind} {work.name}"
        with (
            display(title, runs, work.workers, as_json, listen) as shown,
            WorkerPool(root, work.name, runs, work.workers) as pool,
        ):
            for run, event in pool.events():
                shown.tell(run, event)
        if all(run.outcome == "failed" for run in runs):
            print(f"ostinato: {title}: no run came to its end", file=sys.stderr)
            return Made(None, runs)
        place = conclude(root, work, runs, time.monotonic() - began)
        shown.conclude(work.kind, place)
    return Made(place, runs)


def conclude(root: Path, work: Work, runs: Sequence[Run], seconds: float) -> Path:
    """Write the study of the runs that came to their end as an artefact, whole or not at all; its place."""
    ended = [run for run in runs if run.outcome in ("finished", "diverged")]
    outcomes = [_outcome(root, run) for run in ended]
    lab = work.lab.model_copy(update={"rounds": max(outcome.rounds for outcome in outcomes)})
    facts = {"name": work.name, "command": work.command, "runs": [run.facts() for run in runs]}
    params, inputs = lab.model_dump(mode="json"), _inputs(outcomes)
    code = SOURCE.digest(SOURCE.closure((work.writer,)))
    identity = {"stage": "study", "params": params, "inputs": {k: v.digest for k, v in inputs.items()}}
    warnings: list[str] = []

    def build(new: Path) -> None:
        warnings.extend(work.write(lab, outcomes, facts, new))
        seal(
            new,
            stage="study",
            role=ROLE,
            round=lab.rounds,
            fingerprint=hashlib.sha256(canonical({**identity, "code": code})).hexdigest(),
            seed=0,
            params=params,
            inputs=inputs,
            code=code,
            versions={},
            measured={"seconds": seconds, "runs": float(len(ended))},
        )

    place = root / work.folder / work.name
    Store(root).put(place, build)
    for line in warnings:
        print(f"ostinato: {work.kind} {work.name}: {line}", file=sys.stderr)
    return place


def checked(chosen: Sequence[Trial]) -> list[Trial]:
    """Every run with its parts checked, before any begins. Raises ``BadInput``."""
    found = []
    for trial in chosen:
        try:
            found.append(replace(trial, params=settled(trial.params)))
        except BadInput as error:
            raise BadInput(f"{trial.name}: {error}") from None
    return found


def _outcome(root: Path, run: Run) -> Outcome:
    directory = run_directory(root, run.trial.name)
    rounds = int(Record.read(directory).params["rounds"])
    return Outcome(run.trial.arm, run.trial.seed, directory, rounds, run.outcome == "diverged")


def _inputs(outcomes: Sequence[Outcome]) -> dict[str, Source]:
    """The last artefact of each run and stage, from which its history leads back to the problems."""
    found = {}
    for outcome in outcomes:
        last = {step.stage: step for step in Record.read(outcome.directory).steps}
        for stage, step in last.items():
            if step.round:
                made = Artefact.open(outcome.directory / step.place, check=False)
                place = f"{outcome.directory.name}/{step.place}"
                found[place] = Source(stage=stage, fingerprint=made.fingerprint, digest=made.digest)
    return found
