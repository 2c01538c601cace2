"""One stage by itself, as DVC runs it: the plain function on the run's artefacts."""

from __future__ import annotations

import contextlib
from pathlib import Path

from flows.environment import workspace
from flows.execution.runner import Runner, spelled
from flows.execution.validation import settled
from flows.stage_table.stages import STAGES, node, plan, rounds_of
from params.base import BadInput, nearest
from params.load import read_params
from tasks.artefacts.artefact import Artefact, Damaged
from tasks.artefacts.record import RECORD, Record, Step
from tasks.artefacts.store import Store
from tasks.core.context import Context


def run_stage(name: str, run: str, round: int, params_file: Path) -> Step:
    """Make or find the artefact of one stage from what lies in ``runs/RUN``. Raises ``BadInput``."""
    if name not in STAGES:
        raise BadInput(f"stage {name}: no such stage{nearest(name, STAGES)}")
    params = settled(read_params(params_file))
    if round not in rounds_of(STAGES[name], params):
        rounds = ", ".join(map(str, rounds_of(STAGES[name], params)))
        raise BadInput(f"--round {round}: {name} does not run then; expected one of {rounds}")
    root = workspace()
    store = Store(root)
    this = node(STAGES[name], round, params)
    busy = f"run {run}: another process is at {this.place}"
    lock = f"run-{run}-{this.place.replace('/', '-')}"
    with store.lock(lock, busy), Context(scratch=store.scratch(lock)) as context:
        command = spelled(["stage", name, "--run", run, "--round", str(round), "--params", str(params_file)])
        runner = Runner(root, run, params, context, command=command)
        runner.continue_record()
        if not runner.record.steps:
            runner.record.steps = _unchanged(runner)
        for place in this.inputs.values():
            remedy = f"{this.place} needs it (run its stage again, dvc repro, or dvc checkout --force)"
            runner.done[place] = Artefact.needed(runner.directory / place, remedy)
        runner.settle(this, runner.fingerprint(this))
        if {step.place for step in runner.record.steps} >= {other.place for other in plan(params)}:
            runner.finish()
        return runner.record.steps[-1]


def _unchanged(runner: Runner) -> list[Step]:
    """The steps that were recorded for other parameters and are what these ask for too: DVC keeps them."""
    path = runner.directory
    steps = {step.place: step for step in Record.read(path).steps} if (path / RECORD).is_file() else {}
    there: dict[str, Artefact] = {}
    for this in plan(runner.params):
        runner.done = {name: there[name] for name in this.inputs.values() if name in there}
        if this.place not in steps or len(runner.done) < len(set(this.inputs.values())):
            continue
        with contextlib.suppress(FileNotFoundError, Damaged):
            found = Artefact.open(path / this.place, check=False)
            if found.fingerprint == steps[this.place].fingerprint == runner.fingerprint(this):
                there[this.place] = found
    runner.done = {}
    return [step for place, step in steps.items() if place in there]
