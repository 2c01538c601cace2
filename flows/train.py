"""The flow: prepare, then rounds of rollout, replay, update and evaluate, then the report."""

# No postponed annotations here: a served flow travels by cloudpickle, which carries what annotations are and
# not what their text would name.

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.tasks import MaterializingTask

from flows.environment import workspace
from flows.execution.earlier_run import keep_earlier
from flows.execution.live_report import LiveReport
from flows.execution.overlap import overlaps
from flows.execution.ray_cluster import cluster_of, require_ray
from flows.execution.runner import Runner, spelled
from flows.execution.validation import busy, chosen, run_name
from flows.execution.watch import Watch, local_start
from flows.prefect_assets import at_path
from flows.prefect_hooks import Keeping, RunName, Setting, gpu_slot, tell_failure
from flows.prefect_progress import Progress, artifact_key
from flows.prefect_stages import settle, settle_overlapped, stage_task
from flows.process import interrupts
from flows.stage_table.stages import Node, plan
from flows.sync.destination import destination
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Step
from tasks.artefacts.store import Store
from tasks.core.context import Context
from tasks.report.run.page import collect, rounds_table, summary, write
from tasks.report.run.state import PAGE
from tasks.report.run.words import evidence, verdict
from tasks.report.trackers import Trackers


class LogWatch(Watch):
    """Tells Prefect's log of every finished stage."""

    def __init__(self) -> None:
        self._logger = get_run_logger()

    def end(self, node: Node, step: Step, artefact: Artefact) -> None:
        """One line a stage."""
        self._logger.info("%s %s in %.1f s", node.place, step.outcome, step.seconds)

    def note(self, text: str) -> None:
        """A warning."""
        self._logger.warning("%s", text)


@flow(name="train", flow_run_name="{name}", on_failure=[tell_failure], on_crashed=[tell_failure])
def train(
    name: RunName | None = None,
    model: str = "smollm2-135m",
    task: str = "arithmetic",
    method: str = "grpo",
    settings: list[Setting] | None = None,
    push: bool = False,
    publish: bool = False,
) -> dict[str, Any]:
    """Train a policy. Run it again with the same arguments and it resumes, or finishes from cache.

    ``model``, ``task`` and ``method`` are presets or files; ``settings`` are ``key=value``, as after
    ``--set``. ``push``: send the run to the remote when it is done; ``publish``: also commit and push what it
    made with DVC and git. Returns the summary that is also in ``runs/NAME/metrics.json``.
    """
    start = local_start()
    params = start.params if start and start.params else chosen(model, task, method, settings or [])
    name = run_name(name, model, task, method)
    if start is None:
        require_ray(params)
    keeping = Keeping(start.kept_in if start else destination(params, push, publish), publish)
    with gpu_slot(), interrupts.heard() if start else interrupts.unwound():
        made = _trained(
            name, params, spelled(["run", *_arguments(name, model, task, method, settings or [])])
        )
    return {**made, **keeping.keep(name)}


def watch_of_run() -> Watch:
    """Who is told how a flow goes: whoever started it from this process, else Prefect's log."""
    start = local_start()
    return start.watch if start else LogWatch()


def _trained(name: str, params: Params, command: str) -> dict[str, Any]:
    root, stages = workspace(), plan(params)
    store = Store(root)
    with store.lock(f"run-{name}", busy(name)), Context(scratch=store.scratch(f"run-{name}")) as context:
        if cluster := cluster_of(params, root, context.scratch):
            context.cluster = context.keep(("cluster",), lambda: cluster)
        watch = watch_of_run()
        if earlier := keep_earlier(root, name, params):
            watch.note(earlier)
        start = local_start()
        runner = Runner(root, name, params, context, watch, command, start.accept if start else ())
        tasks = {stage.name: stage_task(runner, stages, stage) for stage in stages.stages}
        with Trackers(runner.directory, params.trackers, watch.note) as trackers:
            progress = Progress(runner)
            live = LiveReport(runner, stages, (trackers.tell, progress.round_ended))
            if overlaps(params):
                settle_overlapped(runner, stages, tasks, live, progress)
            else:
                for node in stages:
                    with live.told_of(node):
                        try:
                            settle(runner, node, tasks[node.stage.name])
                        finally:
                            progress.guards()
            runner.finish()
            trackers.tell()
            progress.round_ended(params.rounds)
        return report(runner)


def _written(directory: str) -> str:
    return str(write(Path(directory)))


_write_report = MaterializingTask(_written, assets=[], name="report", persist_result=False)


def report(runner: Runner) -> dict[str, Any]:
    """Write the page and leave a table of rounds and a link to the page in Prefect's UI."""
    shown = at_path(runner.directory / PAGE, f"{runner.name}/report", "The page of the run.")
    page = _write_report.with_options(assets=shown)(str(runner.directory))
    data = collect(runner.directory)
    key = artifact_key(runner.name)
    when = datetime.now(UTC).isoformat(timespec="minutes")
    create_table_artifact(rounds_table(data), key=f"{key}-rounds", description=f"Rounds of {runner.name}")
    create_link_artifact(f"file://{page}", "Report", key=f"{key}-report", description=f"Written {when}")
    words = f"{verdict(data)} {evidence(data)}"
    return {"name": runner.name, "report": page, "verdict": words, **summary(data)}


def _arguments(name: str, model: str, task: str, method: str, settings: list[str]) -> list[str]:
    chosen = ["--model", model, "--task", task, "--method", method, "--name", name]
    return [*chosen, *(part for setting in settings for part in ("--set", setting))]
