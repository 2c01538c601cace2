"""One stage by itself, as DVC runs it: the plain function on the run's artefacts."""

from __future__ import annotations

import contextlib
from pathlib import Path

from flows.environment import workspace
from flows.execution.runner import Runner, spelled
from flows.execution.validation import settled
from flows.stage_table.stages import Plan, plan
from params.keep import Keep
from params.load import read_params
from tasks.artefacts.artefact import Artefact, Damaged
from tasks.artefacts.record import RECORD, Record, Step
from tasks.artefacts.store import Store
from tasks.core.context import Context


def run_stage(name: str, run: str, round: int, params_file: Path) -> Step:
    """Make or find the artefact of one stage from what lies in ``runs/RUN``. Raises ``BadInput``."""
    params = settled(read_params(params_file)).model_copy(update={"keep": Keep()})  # DVC keeps all
    stages = plan(params)
    this = stages.at(name, round)
    root = workspace()
    store = Store(root)
    busy = f"run {run}: another process is at {this.place}"
    lock = f"run-{run}-{this.place.replace('/', '-')}"
    with store.lock(lock, busy), Context(scratch=store.scratch(lock)) as context:
        command = spelled(["stage", name, "--run", run, "--round", str(round), "--params", str(params_file)])
        runner = Runner(root, run, stages.params, context, command=command, whole=True)
        if (runner.directory / RECORD).is_file():
            before = Record.read(runner.directory)
            if before.params != runner.record.params:
                before.steps = _unchanged(runner, stages, before)
            runner.continue_record(before)
        for place in this.inputs.values():
            remedy = f"{this.place} needs it (run its stage again, dvc repro, or dvc checkout --force)"
            runner.done[place] = Artefact.needed(runner.directory / place, remedy)
        runner.settle(this, runner.identify(this))
        if {step.place for step in runner.record.steps} >= set(stages.nodes):
            runner.finish()
        return runner.record.steps[-1]


def _unchanged(runner: Runner, stages: Plan, recorded: Record) -> list[Step]:
    """The steps that were recorded for other parameters and are what these ask for too: DVC keeps them."""
    steps = {step.place: step for step in recorded.steps}
    there: dict[str, Artefact] = {}
    for this in stages:
        runner.done = {place: there[place] for place in this.inputs.values() if place in there}
        if this.place not in steps or len(runner.done) < len(set(this.inputs.values())):
            continue
        with contextlib.suppress(FileNotFoundError, Damaged):
            found = Artefact.open(runner.directory / this.place, check=False)
            if found.fingerprint == steps[this.place].fingerprint == runner.identify(this):
                there[this.place] = found
    runner.done = {}
    return [step for place, step in steps.items() if place in there]
