"""One stage by itself, as DVC runs it: the plain function on the run's artefacts."""

from __future__ import annotations

from pathlib import Path

from flows.environment import workspace
from flows.execution.runner import Runner, spelled
from flows.execution.validation import settled
from flows.stage_table.stages import Plan, plan
from params.load import read_params
from tasks.artefacts.artefact import Artefact, Damaged
from tasks.artefacts.record import Step
from tasks.artefacts.store import Store
from tasks.core.context import Context


def run_stage(name: str, run: str, round: int, params_file: Path) -> Step:
    """Make or find the artefact of one stage from what lies in ``runs/RUN``. Raises ``BadInput``."""
    stages = plan(settled(read_params(params_file)))
    this = stages.at(name, round)
    root = workspace()
    store = Store(root)
    busy = f"run {run}: another process is at {this.place}"
    lock = f"run-{run}-{this.place.replace('/', '-')}"
    with store.lock(lock, busy), Context(scratch=store.scratch(lock)) as context:
        command = spelled(["stage", name, "--run", run, "--round", str(round), "--params", str(params_file)])
        runner = Runner(root, run, stages.params, context, command=command)
        runner.continue_record()
        for place in this.inputs.values():
            remedy = f"{this.place} needs it (run its stage again, dvc repro, or dvc checkout --force)"
            runner.done[place] = Artefact.needed(runner.directory / place, remedy)
        runner.settle(this, runner.identify(this))
        if {step.place for step in runner.record.steps} >= set(stages.nodes) and _complete(runner, stages):
            runner.finish()
        return runner.record.steps[-1]


def _complete(runner: Runner, stages: Plan) -> bool:
    """Whether each place holds what these parameters make. DVC does not run again what did not change, so
    that the steps of an earlier run count where their artefacts are still right."""
    runner.done.clear()
    for node in stages:
        try:
            artefact = Artefact.open(runner.directory / node.place, check=False)
        except (FileNotFoundError, NotADirectoryError, Damaged):
            return False
        if artefact.fingerprint != runner.identify(node):
            return False
        runner.done[node.place] = artefact
    return True
