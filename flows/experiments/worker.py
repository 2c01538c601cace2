"""A worker of a comparison, ``python -m flows.experiments.worker ROOT PARENT``: runs in, what happens out.

Each line of standard input is a run; each line of standard output is an event of it, ``end`` the last. The
stages run one after the other without Prefect, as DVC runs them, and share one engine over the rounds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from flows.environment import prepare_threads
from flows.execution.budget import spend
from flows.execution.earlier_run import keep_earlier
from flows.execution.runner import Runner
from flows.execution.watch import Watch
from flows.stage_table.stages import Node, plan
from params.base import validate
from params.budget import Budget
from params.errors import OstinatoError
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Step
from tasks.artefacts.store import Store
from tasks.core.context import Context
from tasks.core.errors import NotFinite
from tasks.core.json_worker import Parent
from tasks.remote.errors import Elsewhere
from tasks.report.trackers import track


class Wire(Watch):
    """Sends the process that asked for a run what happens in it."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent

    def end(self, node: Node, step: Step, artefact: Artefact) -> None:
        """A finished stage."""
        facts = {"place": node.place, "stage": node.stage.name, "outcome": step.outcome}
        self._parent.send({"event": "stage", **facts, "seconds": step.seconds})

    def note(self, text: str) -> None:
        """A note."""
        self._parent.send({"event": "note", "text": text})


def serve(root: Path, parent: Parent) -> None:
    """Make one run after the other, until there are no more orders.

    What a person or a model's numbers can be blamed for ends the run; anything else is a fault of ours and
    ends the process, with its traceback in the log. A run whose next stage another machine makes ends as
    ``elsewhere``: it can be taken up again later.
    """
    for order in parent:
        try:
            make(root, order, Wire(parent))
        except Elsewhere as error:
            parent.send({"event": "end", "outcome": "elsewhere", "why": str(error)})
        except OstinatoError as error:
            parent.send({"event": "end", "outcome": _kind(error), "why": " ".join(str(error).split())})
        else:
            parent.send({"event": "end", "outcome": "finished", "why": ""})


def make(root: Path, order: dict[str, Any], watch: Watch) -> None:
    """One whole run: ``name``, ``params``, a ``budget`` or null, the ``command`` that makes the same through
    Prefect, and the ``patience`` with other machines.
    """
    name, params = order["name"], validate(Params, order["params"])
    store = Store(root)
    busy = f"run {name}: another process is at it; wait for it"
    with store.lock(f"run-{name}", busy), Context(scratch=store.scratch(f"run-{name}")) as context:
        if earlier := keep_earlier(root, name, params):
            watch.note(earlier)
        runner = Runner(root, name, params, context, watch, order["command"], patience=order["patience"])
        if order["budget"]:
            spend(runner, validate(Budget, order["budget"]))
        else:
            for node in plan(params):
                runner.settle(node, runner.identify(node))
        runner.finish()
        track(runner.directory, params.trackers, watch.note)


def _kind(error: Exception) -> str:
    return "diverged" if isinstance(error, NotFinite) else "failed"


def main(root: str, parent: str) -> None:
    """Serve the process that started this one."""
    prepare_threads()
    serve(Path(root), Parent(int(parent)))


if __name__ == "__main__":
    main(*sys.argv[1:])
