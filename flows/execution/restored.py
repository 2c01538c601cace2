"""One artefact of a run made whole again, for a person."""

from __future__ import annotations

from collections.abc import Callable

from flows.environment import workspace
from flows.execution.runner import Runner, run_directory
from flows.execution.validation import settled
from flows.execution.watch import Watch
from flows.stage_table.stages import plan
from params.base import BadInput, nearest
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Record
from tasks.artefacts.store import Store
from tasks.core.context import Context


class Told(Watch):
    """Hands notes on."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def note(self, text: str) -> None:
        """A note."""
        self._tell(text)


def restore_artefact(run: str, place: str, tell: Callable[[str], None]) -> Artefact:
    """Make whole what lies at a place of a run. Raises ``BadInput`` where no such stage is done, and
    ``StageFailure`` where other files come out than those that were dropped."""
    root = workspace()
    store, directory = Store(root), run_directory(root, run)
    record = Record.read(directory)
    stages = plan(settled(record.parameters()))
    done = {step.place for step in record.steps}
    if place not in done & stages.nodes.keys():
        raise BadInput(f"{run}/{place}: no such stage is done in this run{nearest(place, done)}")
    busy = f"run {run}: another process is at it; wait for it"
    with store.lock(f"run-{run}", busy), Context(scratch=store.scratch(f"run-{run}")) as context:
        runner = Runner(root, run, stages.params, context, Told(tell), record.command)
        for node in stages:
            if node.place in done:
                runner.take(node)
        runner.show_whole(place)
        return Artefact.open(directory / place)
