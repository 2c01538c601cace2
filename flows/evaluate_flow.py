"""On-demand evaluation as a Prefect flow: a policy that a run made, with other settings than the run's."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows.environment import workspace
from flows.execution.remote_settings import settings_of
from flows.execution.runner import Runner, run_directory
from flows.execution.validation import settled
from flows.prefect_hooks import RunName, Setting, gpu_slot, tell_failure
from flows.process import interrupts
from flows.stage_table.stages import plan
from flows.train import watch_of_run
from params.base import BadInput, validate
from params.layers import merge
from params.load import read_setting
from params.schema import Params
from tasks.artefacts.artefact import MOMENTS, Artefact
from tasks.artefacts.record import RECORD, Record
from tasks.artefacts.store import Store
from tasks.core.context import Context


@flow(name="evaluate", flow_run_name="{run}", on_failure=[tell_failure], on_crashed=[tell_failure])
def evaluate(
    run: RunName,
    round: Annotated[int, Field(ge=0)] | None = None,
    settings: list[Setting] | None = None,
) -> dict[str, Any]:
    """Scores of the policy after ``round`` of a run (by default its last; 0: the base model).

    A run that is not here is pulled from the remote. ``settings`` change the run's own parameters, as after
    ``--set``: ``evaluate.samples_per_problem=16``, ``task.held_out_count=500``. Returns the metrics of
    ``scores.json``, which lies under ``runs/RUN-evaluated``.
    """
    record = _record(run)
    params = settled(_changed(record, settings or []))
    made = {step.place: step for step in record.steps}
    rounds = [step.round for step in record.policies()]
    at = rounds[-1] if round is None and rounds else round or 0
    stages = plan(params)
    wanted = stages.node(stages.table["evaluate"], at)
    missing = sorted(set(wanted.inputs.values()) - set(made))
    if missing:
        last = rounds[-1] if rounds else 0
        raise BadInput(f"round {at}: {run} has no {missing[0]}; expected a round from 0 to {last}")
    root, name = workspace(), f"{run}-evaluated"
    store = Store(root)
    busy = f"run {name}: another process is at it; wait for it"
    with (
        gpu_slot(),
        interrupts.unwound(),
        store.lock(f"run-{name}", busy),
        Context(store.scratch(f"run-{name}")) as context,
    ):
        command = f"prefect deployment run evaluate/on-demand -p run={run}"
        runner = Runner(root, name, params, context, watch_of_run(), command)
        for place in wanted.inputs.values():
            if place == "problems":  # other settings may want others
                runner.settle(stages[place], runner.identify(stages[place]))
            else:
                there = run_directory(root, run) / place
                runner.done[place] = Artefact.needed(there, f"run {run} again", lacking=(MOMENTS,))
        scores = runner.settle(wanted, runner.identify(wanted)).json("scores.json")
        runner.finish()
    lines = [f"- {key}: {value}" for key, value in scores.items() if not isinstance(value, list)]
    key = "".join(c if c.isalnum() else "-" for c in name)
    create_markdown_artifact("\n".join(lines), key=key, description=f"Round {at} of {run}")
    return {"run": run, "round": at, **scores}


def _record(run: str) -> Record:
    """The run's record; where it is not here, it is pulled."""
    root = workspace()
    directory = run_directory(root, run)
    if not (directory / RECORD).exists() and (settings := settings_of(root)) is not None:
        from flows.sync.transfer import pull_run
        from tasks.remote.progress import silent

        pull_run(root, run, settings, silent)
    return Record.read(directory)


def _changed(record: Record, settings: list[str]) -> Params:
    """The run's parameters under the settings. Raises ``BadInput``."""
    merged = record.params
    for setting in settings:
        merged = merge(merged, read_setting(setting), Params.model_fields)
    return validate(Params, merged)
