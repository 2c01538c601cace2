"""A run's stages as Prefect tasks: one after the other, or each as soon as its inputs are done."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from prefect.context import TaskRunContext
from prefect.tasks import MaterializingTask

from flows.execution.guards import Stopped
from flows.execution.lane import Lane
from flows.execution.live_report import LiveReport
from flows.execution.overlap import Share, shares
from flows.execution.runner import Runner
from flows.execution.schedule import Schedule, Turn
from flows.prefect_assets import made_by, read_by
from flows.prefect_progress import Progress
from flows.stage_table.stage_def import StageDef
from flows.stage_table.stages import Node, Plan
from params.errors import OstinatoError
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.role import Resource

Reference = dict[str, str]
Ended = tuple[Node, Callable[[], object]]
"""A stage that is made, or could not be, which calling the function tells."""
LANES: tuple[Resource, ...] = ("engine", "judge")
"""Resources whose stages are made in a process of their own; the trainer's are made in the flow's."""


def stage_task(runner: Runner, stages: Plan, stage: StageDef) -> Any:
    """The Prefect task of a stage. Its result is a small JSON reference, never the artefact."""

    def run(place: str, identity: str) -> Reference:
        with suppress(Stopped):  # the stage is made all the same; what calls this stops the run
            runner.settle(stages[place], identity)
        artefact = runner.done[place]
        path = artefact.path.relative_to(runner.root).as_posix()
        return {"place": place, "path": path, "fingerprint": identity, "digest": artefact.digest}

    return MaterializingTask(
        run,
        assets=[],
        name=stage.name,
        description=stage.summary,
        cache_key_fn=_by_identity,
        persist_result=True,
        result_serializer="json",
    )


def _by_identity(context: TaskRunContext, arguments: dict[str, Any]) -> str:
    return str(arguments["identity"])


def settle(runner: Runner, node: Node, run: Any) -> None:
    """One stage through Prefect: cached by fingerprint, and the hit verified against the manifest.

    Prefect knows only that it has a result for the key; whether the artefact is there and whole, we look
    ourselves, and refresh Prefect's record when it is not.
    """
    identity = runner.identify(node)
    found = runner.find(node, identity)
    _as_task(runner, node, run, identity, found)(node.place, identity)
    _see_to(runner, node, identity, found)


def settle_overlapped(
    runner: Runner, stages: Plan, tasks: Mapping[str, Any], live: LiveReport, progress: Progress
) -> None:
    """Every stage of a run, each begun as soon as its inputs are done and its resource is free.

    Where one fails, no other is begun, and those that have begun are finished first; the error is then
    raised. An interrupt gives them up.
    """
    schedule, ended = Schedule(stages), queue.SimpleQueue[Ended]()
    engine, trainer = shares(runner.params)
    runner.makers.overlap({name: _lane(runner, name, engine) for name in LANES}, trainer.threads)
    failed: tuple[Node, Exception] | None = None
    node = next(iter(stages))
    try:
        while not schedule.finished and not (failed and not schedule.busy):
            for turn in () if failed else schedule.turns(time.monotonic()):
                try:
                    _begin(runner, turn, tasks[turn.node.stage.name], ended)
                except OstinatoError as error:
                    ended.put((turn.node, partial(_raise, error)))
            node, outcome = ended.get()
            schedule.end(node.place, time.monotonic())
            try:
                outcome()
                live.done(node)
            except OstinatoError as error:
                failed = failed or (node, error)
                if schedule.busy:
                    runner.watch.note(f"{node.place} failed; {', '.join(schedule.busy)} is finished first")
            progress.guards()
    except BaseException as error:
        runner.makers.give_up()
        live.stopped(node, error)
        raise
    if failed:
        live.stopped(*failed)
        raise failed[1]


def _lane(runner: Runner, resource: Resource, share: Share) -> Lane:
    log = runner.root / ".ostinato" / "logs" / f"{runner.name}.{resource}.log"
    make = partial(Lane, runner.root, runner.context.scratch, log, share)
    return runner.context.keep(("lane", resource), make)


def _begin(runner: Runner, turn: Turn, run: Any, ended: queue.SimpleQueue[Ended]) -> None:
    """What is in the cache is settled here; what is to be made, in a thread of Prefect's."""
    node = turn.node
    identity = runner.identify(node)
    found = runner.find(node, identity)
    runner.waited[node.place] = time.monotonic() - turn.ready, turn.waited_for
    task = _as_task(runner, node, run, identity, found)

    def settled(outcome: Callable[[], object]) -> None:
        outcome()
        _see_to(runner, node, identity, found)

    if found is not None:
        ended.put((node, partial(settled, partial(task, node.place, identity))))
    else:
        future = task.submit(node.place, identity)
        future.add_done_callback(lambda done: ended.put((node, partial(settled, done.result))))


def _raise(error: OstinatoError) -> None:
    raise error


def _as_task(runner: Runner, node: Node, run: Any, identity: str, found: Artefact | None) -> Any:
    made = [] if found else made_by(runner, node, identity)
    options = {"refresh_cache": found is None, "task_run_name": node.place, "assets": made}
    if made:
        options["asset_deps"] = read_by(runner, node)
    return run.with_options(**options)


def _see_to(runner: Runner, node: Node, identity: str, found: Artefact | None) -> None:
    """Prefect may have had the result and not called the stage; and a guard may have stopped the run."""
    if node.place not in runner.done:
        runner.settle(node, identity, found)
    if runner.halt:
        raise runner.halt
