"""One run on one workspace: finds or makes each stage's artefact, checks it, shows it at the run's path."""

from __future__ import annotations

import contextvars
import os
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from flows.execution import external_policy
from flows.execution.fingerprint import code_digest, fingerprint, modules, parameters_read, versions
from flows.execution.remote_cache import Lookup
from flows.execution.remote_inputs import Inputs
from flows.stage_table.stages import Node
from params.base import BadInput
from params.schema import Params
from tasks.artefacts.artefact import Artefact, Damaged, Source
from tasks.artefacts.record import Record, Step
from tasks.artefacts.store import Store, publish
from tasks.core.context import Context
from tasks.core.errors import memory_errors
from tasks.core.stage import Job


class Watch:
    """Is told how a run goes. This one says nothing."""

    def begin(self, node: Node) -> None:
        """A stage is made from now on; one that is cached only ends."""

    def tell(self, activity: str, done: int, total: int, facts: dict[str, float]) -> None:
        """How far the stage is."""

    def fetched(self, node: Node, artefact: Artefact) -> None:
        """The stage's artefact came from the remote."""

    def end(self, node: Node, step: Step, artefact: Artefact) -> None:
        """The stage is done."""

    def note(self, text: str) -> None:
        """Something a person should know: an artefact was damaged and is made again."""


_watching: contextvars.ContextVar[Watch | None] = contextvars.ContextVar("watching", default=None)


def current_watch() -> Watch | None:
    """Who is told how runs of this process go. (Prefect pickles the flow for a scheduled run, and a context
    variable cannot be pickled: hence a function in a module of its own.)"""
    return _watching.get()


def watch_with(watch: Watch) -> None:
    """From now on, tell this one."""
    _watching.set(watch)


@dataclass
class Runner:
    """A run in progress."""

    root: Path
    """The workspace: ``artefacts/`` and ``runs/`` lie in it."""
    name: str
    params: Params
    context: Context
    watch: Watch = field(default_factory=Watch)
    command: str = ""
    done: dict[str, Artefact] = field(default_factory=dict)
    """What is finished and checked, by place."""

    def __post_init__(self) -> None:
        self.store = Store(self.root)
        self.directory = run_directory(self.root, self.name)
        self._elsewhere = Inputs(self.root, self.params, self.context)
        self._lookup = Lookup(self.store, self.params.store, self.context, self.watch.note)
        self._began = time.monotonic()
        self._reported: set[str] = set()
        self._brought: dict[str, Artefact] = {}
        self.record = Record(
            name=self.name,
            command=self.command,
            params=self.params.model_dump(mode="json"),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def continue_record(self) -> None:
        """Keep the steps that earlier processes recorded for the same parameters."""
        try:
            before = Record.read(self.directory)
        except BadInput:
            return
        if before.params == self.record.params:
            self.record.steps, self.record.started = before.steps, before.started
            self._began -= before.seconds

    def inputs(self, node: Node) -> Mapping[str, Artefact]:
        """The finished artefacts that the stage reads, those of other runs included."""
        for name, text in node.outside.items():
            if text not in self._brought:
                self._brought[text] = external_policy.brought(self.store, text, f"{node.stage.name}: {name}")
        others = {name: self._brought[text] for name, text in node.outside.items()}
        return {**{name: self.done[place] for name, place in node.inputs.items()}, **others}

    def fingerprint(self, node: Node) -> str:
        """The identity of what the stage is to make; its inputs must be done."""
        elsewhere = self._elsewhere.identities(node.stage.name)
        return fingerprint(node.stage, node.round, self.params, self.inputs(node), elsewhere)

    def find(self, node: Node, identity: str) -> Artefact | None:
        """The artefact if it is in the cache, or at the run's path, and whole; a damaged one is reported."""
        try:
            found = self.store.find(node.stage.name, identity)
        except Damaged as damage:
            if str(damage) not in self._reported:
                self.watch.note(f"{damage}; making it again")
            self._reported.add(str(damage))
            return None
        return found or self.store.adopt(node.stage.name, identity, self.directory / node.place)

    def settle(self, node: Node, identity: str, found: Artefact | None = None) -> Artefact:
        """The artefact, found here or in the remote or made, shown at the run's path and recorded."""
        began = time.monotonic()
        outcome: Literal["made", "cached"] = "cached"
        if found is None:
            with self.store.lock(f"{node.stage.name}-{identity[:20]}"):
                found = self.find(node, identity) or self._fetch(node, identity)
                if found is None:
                    found, outcome = self._make(node, identity), "made"
        publish(found, self.directory / node.place)
        self.done[node.place] = found
        step = Step(
            place=node.place,
            stage=node.stage.name,
            round=node.round,
            fingerprint=identity,
            digest=found.digest,
            outcome=outcome,
            seconds=time.monotonic() - began,
        )
        self._note_step(step)
        self.watch.end(node, step, found)
        return found

    def plan_for(self, rounds: int) -> None:
        """The run has so many rounds: a number that no stage reads."""
        self.params = self.params.model_copy(update={"rounds": rounds})
        self.record.params = self.params.model_dump(mode="json")
        self.record.command = f"{self.command} --set rounds={rounds}"

    def finish(self) -> None:
        """Every stage is done."""
        self.record.finished = True
        self._write_record()

    def _use_threads(self, node: Node) -> None:
        if "torch" in node.stage.libraries:
            import torch  # only here: a run that finds everything in the cache needs none of it

            torch.set_num_threads(self.params.threads or os.cpu_count() or 1)

    def _note_step(self, step: Step) -> None:
        self.record.steps = [s for s in self.record.steps if s.place != step.place] + [step]
        self._write_record()

    def _write_record(self) -> None:
        self.record.seconds = time.monotonic() - self._began
        self.record.write(self.directory)

    def _fetch(self, node: Node, identity: str) -> Artefact | None:
        found = self._lookup.fetch(node.stage.name, identity, self.watch.tell)
        if found is not None:
            self.watch.fetched(node, found)
        return found

    def _make(self, node: Node, identity: str) -> Artefact:
        inputs = self.inputs(node)
        self.watch.begin(node)

        def fill(out: Path) -> dict[str, Any]:
            self.context.tell = self.watch.tell
            began = time.monotonic()
            self._use_threads(node)
            stage = node.stage.load()
            params = self._elsewhere.local(node.stage.name, self.watch.tell)
            with memory_errors(node.place):
                measured = stage(Job(params, node.round, inputs, out, self.context))
            return {
                "round": node.round,
                "seed": self.params.seed,
                "params": parameters_read(node.stage, self.params),
                "inputs": {
                    name: Source(stage=a.manifest.stage, fingerprint=a.fingerprint, digest=a.digest)
                    for name, a in inputs.items()
                },
                "code": code_digest(modules(node.stage, self.params)),
                "versions": versions(node.stage),
                "measured": {**measured, "stage_seconds": time.monotonic() - began},
            }

        return self.store.make(node.stage.name, identity, fill)


def run_directory(root: Path, name: str) -> Path:
    """Where a run of that name lies."""
    return root / "runs" / name


def spelled(arguments: list[str]) -> str:
    """A command line that can be pasted into a shell."""
    return shlex.join(["ostinato", *arguments])
