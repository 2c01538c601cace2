"""The laboratory: a named study of methods, every arm with every seed, made by one command.

Each run is an ordinary one: it lies under ``runs/LAB-ARM-sSEED`` and shares the workspace's cache, so that
``ostinato status``, ``show`` and ``report`` know it, and so that arms share whatever does not depend on what
tells them apart: a seed's model, its problems, its first rollouts.

The runs go through worker processes that run the plain stage loop, without Prefect. A stage of nano is
short: Prefect adds some 90 ms to each, and some 10 s to each start. What it gives beyond that is here anyway:
artefacts are whole or absent, the cache is on disk, and each artefact is made under a lock of its own, so
that two workers that need the same one make it once. Arms are handed out one after the other with all their
seeds: what runs at the same time has different seeds, and hardly ever waits for such a lock.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.door import settled
from flows.environment import workspace
from flows.fingerprint import closure, code_digest
from flows.lab_crew import Crew, Run
from flows.lab_display import display
from flows.runner import run_directory, spelled
from flows.stages import STAGES
from params import BadInput, nearest
from params.lab import Lab, Trial, narrowed, read_lab, trials
from tasks.artefact import Artefact, Source, canonical, seal
from tasks.record import Record
from tasks.store import Store
from tasks.study import Outcome, Study, curves
from tasks.study_page import missing, write


@dataclass(frozen=True)
class Asked:
    """What a person asked for."""

    study: str
    """A preset or a file."""
    seeds: int | None
    arms: str | None
    """Names with commas between."""
    settings: Sequence[str]
    workers: int

    def command(self) -> str:
        """The command line that repeats it."""
        chosen = [*(["--seeds", str(self.seeds)] if self.seeds else [])]
        chosen += ["--arms", self.arms] if self.arms else []
        return spelled(["lab", self.study, *chosen, *(p for s in self.settings for p in ("--set", s))])


def run_lab(asked: Asked, as_json: bool) -> int:
    """Make a study and write ``labs/NAME``; the exit code is 1 where a run failed. Raises ``BadInput``."""
    name, lab = read_lab(asked.study)
    arms = [arm.strip() for arm in asked.arms.split(",")] if asked.arms else None
    lab = narrowed(lab, arms, asked.seeds)
    _check_metrics(name, lab)
    chosen = _checked(trials(name, lab, asked.settings))
    lab = lab.model_copy(update={"rounds": max(trial.params.rounds for trial in chosen)})
    root = workspace()
    busy = f"lab {name}: another process is at it; wait for it"
    began = time.monotonic()
    with Store(root).lock(f"lab-{name}", busy):
        runs = [Run(trial) for trial in chosen]
        with (
            display(name, runs, asked.workers, as_json) as shown,
            Crew(root, name, runs, asked.workers) as crew,
        ):
            for run, event in crew.events():
                shown.tell(run, event)
        failed = [run for run in runs if run.outcome == "failed"]
        if len(failed) == len(runs):
            print(f"ostinato: lab {name}: no run came to its end", file=sys.stderr)
            return 1
        facts = {"name": name, "command": asked.command(), "runs": [run.facts() for run in runs]}
        place = conclude(root, name, lab, runs, facts, time.monotonic() - began)
        shown.conclude(place, facts)
    return 1 if failed else 0


def conclude(
    root: Path, name: str, lab: Lab, runs: Sequence[Run], facts: dict[str, Any], seconds: float
) -> Path:
    """Write the study of the runs that came to their end as an artefact, whole or not at all; its place."""
    ended = [run for run in runs if run.outcome in ("finished", "diverged")]
    outcomes = [_outcome(root, run) for run in ended]
    study = Study(lab, outcomes, curves(outcomes))
    for line in missing(study):
        print(f"ostinato: lab {name}: {line}", file=sys.stderr)
    params, inputs = lab.model_dump(mode="json"), _inputs(outcomes)
    code = code_digest(tuple(sorted(closure(("tasks.study_page",)))))
    identity = {"stage": "study", "params": params, "inputs": {k: v.digest for k, v in inputs.items()}}

    def build(new: Path) -> None:
        write(study, facts, new)
        seal(
            new,
            stage="study",
            round=lab.rounds,
            fingerprint=hashlib.sha256(canonical({**identity, "code": code})).hexdigest(),
            seed=0,
            params=params,
            inputs=inputs,
            code=code,
            versions={},
            measured={"seconds": seconds, "runs": float(len(ended))},
        )

    place = root / "labs" / name
    Store(root).put(place, build)
    return place


def _checked(chosen: Sequence[Trial]) -> list[Trial]:
    """Every run with its parts checked, before any begins."""
    found = []
    for trial in chosen:
        try:
            found.append(replace(trial, params=settled(trial.params)))
        except BadInput as error:
            raise BadInput(f"{trial.name}: {error}") from None
    return found


def _check_metrics(name: str, lab: Lab) -> None:
    for metric in (*lab.metrics, lab.accuracy):
        stage = metric.partition(".")[0]
        if stage not in STAGES:
            raise BadInput(f"{name}: metrics.{metric}: no stage '{stage}'{nearest(stage, STAGES)}")


def _outcome(root: Path, run: Run) -> Outcome:
    trial = run.trial
    directory = run_directory(root, trial.name)
    return Outcome(trial.arm, trial.seed, directory, trial.params.rounds, run.outcome == "diverged")


def _inputs(outcomes: Sequence[Outcome]) -> dict[str, Source]:
    """The last artefact of each run and stage, from which its history leads back to the problems."""
    found = {}
    for outcome in outcomes:
        last = {step.stage: step for step in Record.read(outcome.directory).steps}
        for stage in ("update", "evaluate"):
            if stage in last:
                step = last[stage]
                made = Artefact.open(outcome.directory / step.place, check=False)
                place = f"{outcome.directory.name}/{step.place}"
                found[place] = Source(stage=stage, fingerprint=made.fingerprint, digest=made.digest)
    return found
