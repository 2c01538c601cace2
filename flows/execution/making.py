"""Running a stage's function: here, or in the process of its resource where a run's stages overlap."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.execution.lane import GivenUp, Lane, Tell
from flows.execution.recorded_answers import recorded_answers
from flows.stage_table.stages import Node
from params.views import told_of
from tasks.artefacts.artefact import source_of
from tasks.artefacts.role import Resource
from tasks.core.context import Context
from tasks.core.errors import memory_errors
from tasks.core.memory import give_back
from tasks.core.stage import Job

if TYPE_CHECKING:
    from flows.execution.runner import Runner


class Makers:
    """What makes the stages of a run: this process, and a lane for each resource that has one."""

    def __init__(self, context: Context, threads: int | None) -> None:
        """``threads``: those of torch in this process; None: every core."""
        self._context, self._threads = context, threads
        self._lanes: dict[Resource, Lane] = {}
        self._locks: dict[Resource | None, threading.Lock] = {None: threading.Lock()}
        self._given_up = threading.Event()

    def overlap(self, lanes: dict[Resource, Lane], threads: int) -> None:
        """From here on the stages of these resources are made in lanes, and this process has so many
        ``threads``."""
        self._lanes, self._threads = lanes, threads
        self._locks |= {resource: threading.Lock() for resource in lanes}

    def give_up(self) -> None:
        """End what is being made, as soon as it says how far it is."""
        self._given_up.set()
        for lane in self._lanes.values():
            lane.give_up()

    def heeding(self, tell: Tell) -> Tell:
        """The same ``tell``, which raises ``GivenUp`` once the run is."""

        def heeded(activity: str, done: int, total: int, more: dict[str, float]) -> None:
            if self._given_up.is_set():
                raise GivenUp(f"{activity}: given up")
            tell(activity, done, total, more)

        return heeded

    def make(self, runner: Runner, node: Node, fingerprint: str, out: Path) -> dict[str, Any]:
        """Run the stage; what its manifest says beside the files."""
        lane = self._lanes.get(node.stage.resource)
        inputs, facts = runner.inputs(node), runner.lasting(node)
        answers = recorded_answers(runner.store, node.stage, node.round, runner.params, facts, inputs)
        if answers is not None:
            runner.watch.note(f"{node.place}: judges the answers of {answers.path.name} anew")

        tell = self.heeding(partial(runner.watch.tell, node.place))
        # What was thinned is made again by whichever stage needs it, so that two threads may want a resource.
        with self._locks[node.stage.resource if lane else None]:
            params = runner.local_params(node)
            began = time.monotonic()
            if lane is None:
                context = self._context
                context.tell, context.note, context.store = tell, runner.watch.note, runner.store
                self._use_threads(node)
                if node.stage.role.kind == "learn":
                    context.learning()
            else:
                context = Context(self._context.scratch, tell=tell, note=runner.watch.note)
            job = Job(params, node.round, inputs, out, context, fingerprint, answers)
            runner.edits.check(node.place, facts)
            measured = self._run(node, job) if lane is None else lane.make(node.stage.name, params, job)
            runner.edits.check(node.place, facts)
            seconds = time.monotonic() - began
        return {
            "role": node.stage.role,
            "round": node.round,
            "seed": runner.params.seed,
            "params": facts["params"],
            "inputs": {name: source_of(artefact) for name, artefact in inputs.items()},
            "answers": answers and source_of(answers),
            "code": facts["code"],
            "own_files": facts["files"],
            "versions": facts["versions"],
            "measured": {**measured, "stage_seconds": seconds},
        }

    def whole(self, node: Node) -> None:
        """The artefact is whole: what was kept in case that it has to be begun anew can go."""
        lane = self._lanes.get(node.stage.resource)
        with self._locks[node.stage.resource if lane else None]:
            (lane or self._context).whole()
        give_back()

    def _run(self, node: Node, job: Job) -> dict[str, float]:
        with memory_errors(node.place), told_of(node.stage.task_at):
            return node.stage.load()(replace(job, params=node.stage.view(job.params)))

    def _use_threads(self, node: Node) -> None:
        if "torch" in node.stage.libraries:
            import torch  # only here: a run that finds everything in the cache needs none of it

            torch.set_num_threads(self._threads or os.cpu_count() or 1)
