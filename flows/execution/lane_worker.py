"""The process of a lane: ``python -m flows.execution.lane_worker PARENT``, JSON lines in and out.

A line in is ``{"do": METHOD, ...arguments}``. ``make`` is answered by progress, ``{"tell": ...}`` and
``{"note": ...}``, and then by what the stage measured, ``{"ok": ...}``, or why it could not be made,
``{"bad_input": ...}`` or ``{"failed": ...}``. Any other error ends the process; its last words stand in the
log.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.environment import prepare_threads
from flows.execution.ray_cluster import cluster_of
from flows.stage_table.stage_def import StageDef
from flows.stage_table.stages import table_of
from params.base import BadInput
from params.errors import OstinatoError
from params.schema import Params
from params.views import told_of
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.store import Store
from tasks.core.context import Context
from tasks.core.errors import memory_errors
from tasks.core.json_worker import Parent
from tasks.core.memory import give_back
from tasks.core.stage import Job


def main(parent: int) -> None:
    """Serve one line after the other until the input ends."""
    starter = Parent(parent)
    prepare_threads()
    worker = Worker(starter)
    for order in starter:
        getattr(worker, order.pop("do"))(**order)
    worker.close()


class Worker:
    """The public methods are what a line may ask for."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._context: Context | None = None
        self._last: tuple[dict[str, Any], Params, Mapping[str, StageDef]] | None = None

    def open(self, root: str, scratch: str, threads: int, cores: list[int]) -> None:
        """The workspace, a folder for what nobody needs later, and this process's part of the machine."""
        if cores:
            os.sched_setaffinity(0, cores)
        import torch

        torch.set_num_threads(threads)
        self._root = Path(root)
        self._context = Context(
            scratch=Path(scratch),
            tell=lambda *progress: self._parent.send({"tell": progress}),
            note=lambda text: self._parent.send({"note": text}),
            store=Store(Path(root)),
        )

    def make(
        self,
        stage: str,
        params: dict[str, Any],
        round: int,
        inputs: dict[str, str],
        out: str,
        fingerprint: str,
        answers: str | None,
    ) -> None:
        """Make a stage of a run with these parameters from these inputs."""
        assert self._context is not None
        try:
            whole, table = self._known(params)
            self._use_cluster(whole, self._context)
            row = table[stage]
            found = {name: Artefact.open(Path(path), check=False) for name, path in inputs.items()}
            judged = Artefact.open(Path(answers), check=False) if answers else None
            job = Job(row.view(whole), round, found, Path(out), self._context, fingerprint, judged)
            with memory_errors(stage), told_of(row.task_at):
                measured = row.load()(job)
        except BadInput as error:
            self._parent.send({"bad_input": str(error)})
        except OstinatoError as error:
            self._parent.send({"failed": str(error)})
        else:
            self._parent.send({"ok": measured})
        give_back()

    def _known(self, given: dict[str, Any]) -> tuple[Params, Mapping[str, StageDef]]:
        """The parameters and their stages: in a run mostly those of the stage before."""
        if self._last is None or self._last[0] != given:
            params = Params.model_validate(given)
            self._last = given, params, table_of(params)
        return self._last[1:]

    def _use_cluster(self, params: Params, context: Context) -> None:
        cluster = cluster_of(params, self._root, context.scratch) if context.cluster is None else None
        if cluster:
            context.cluster = context.keep(("cluster",), lambda: cluster)

    def whole(self) -> None:
        """The artefact of the last stage is whole."""
        assert self._context is not None
        self._context.whole()

    def close(self) -> None:
        """Give back what stages kept."""
        if self._context is not None:
            self._context.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
