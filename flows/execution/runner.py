"""One run on one workspace: finds or makes each stage's artefact, shows it at the run's path, records it."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from flows.execution import external, guards
from flows.execution.accepted_code import ALL, other_code, take_over
from flows.execution.fingerprint import identity, lasting_facts
from flows.execution.recorded_answers import recorded_answers
from flows.execution.remote_cache import RemoteCache
from flows.execution.remote_inputs import RemoteInputs
from flows.execution.restoring import restore, whole_inputs
from flows.execution.retention import best_round
from flows.execution.thinning import Thinning, scores
from flows.execution.watch import Watch
from flows.stage_table.stages import Node
from params.base import BadInput
from params.schema import Params
from params.views import told_of
from tasks.artefacts.artefact import EVERYTHING, MOMENTS, Artefact, Damaged, source_of
from tasks.artefacts.record import Record, Step, Stop
from tasks.artefacts.store import Store, publish
from tasks.core.context import Context
from tasks.core.errors import memory_errors
from tasks.core.memory import give_back
from tasks.core.stage import Job


@dataclass
class Runner:
    """A run in progress. A stage goes through ``identify``, ``find`` and ``settle``, in this order."""

    root: Path
    """The workspace: ``artefacts/`` and ``runs/`` lie in it."""
    name: str
    params: Params
    context: Context
    watch: Watch = field(default_factory=Watch)
    command: str = ""
    accept: Sequence[str] = ()
    """Places whose artefacts may have been made by another state of the source; ``all``."""
    whole: bool = False
    """Whether nothing may be lacking of an artefact: DVC keeps directories as they are."""
    done: dict[str, Artefact] = field(default_factory=dict)
    """What is finished and checked, by place."""
    halt: guards.Stopped | None = None
    """The guard that stops the run."""
    nodes: dict[str, Node] = field(default_factory=dict)
    """The stages that were settled, by place, in their order."""

    def __post_init__(self) -> None:
        self.store = Store(self.root)
        self.directory = run_directory(self.root, self.name)
        self._remote_inputs = RemoteInputs(self.root, self.params, self.context)
        self._remote_cache = RemoteCache(self.store, self.params.store, self.context, self.watch.note)
        self.thinning = Thinning(self.store, self.directory, self.watch.note)
        self._round = 0
        self._began = time.monotonic()
        self._facts: dict[str, dict[str, Any]] = {}
        self._reported: set[str] = set()
        self._external: dict[str, Artefact] = {}
        self._recording = False
        self.record = Record(
            name=self.name,
            command=self.command,
            params=self.params.model_dump(mode="json"),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def continue_record(self, before: Record) -> None:
        """Keep the steps that earlier processes recorded, and the time that they took."""
        self.record.steps, self.record.started = before.steps, before.started
        self.record.warnings = before.warnings
        self._began -= before.seconds

    def inputs(self, node: Node) -> Mapping[str, Artefact]:
        """The finished artefacts that the stage reads, those of other runs included."""
        found = {name: self.done[place] for name, place in node.inputs.items()}
        for name, text in node.outside.items():
            if text not in self._external:
                where = f"{node.stage.name}: {name}"
                self._external[text] = external.brought(self.store, name, text, where)
            found[name] = self._external[text]
        return found

    def identify(self, node: Node) -> str:
        """The fingerprint of what the stage is to make; its inputs must be done."""
        return identity(self._lasting(node), node.round, self.inputs(node))

    def find(self, node: Node, fingerprint: str) -> Artefact | None:
        """The artefact if it is in the cache, or at the run's path, whole or thinned; a damaged one is
        reported."""
        try:
            found = self.store.find(node.stage.name, fingerprint, () if self.whole else EVERYTHING)
        except Damaged as damage:
            if str(damage) not in self._reported:
                self.watch.note(f"{damage}; making it again")
            self._reported.add(str(damage))
            return None
        found = found or self.store.adopt(node.stage.name, fingerprint, self.directory / node.place)
        return None if self.whole and found and found.dropped else found

    def settle(self, node: Node, fingerprint: str, found: Artefact | None = None) -> Artefact:
        """The artefact: the one that was ``found``, or found now, here or in the remote, or made. Afterwards
        it is shown at the run's path and recorded."""
        began = time.monotonic()
        self._end_round(node.round)
        outcome: Literal["made", "cached"] = "cached"
        if found is None:
            with self.store.lock(self.store.path(node.stage.name, fingerprint).name):
                found = self.find(node, fingerprint) or self.fetch(node, fingerprint)
                found = found or self._accepted(node, fingerprint)
                if found is None:
                    found, outcome = self._make(node, fingerprint), "made"
        publish(found, self.directory / node.place)
        self.done[node.place], self.nodes[node.place] = found, node
        now = time.monotonic()
        step = Step(
            place=node.place,
            stage=node.stage.name,
            role=node.stage.role,
            round=node.round,
            fingerprint=fingerprint,
            digest=found.digest,
            outcome=outcome,
            seconds=now - began,
            elapsed=now - self._began,
        )
        self._record(step)
        self.watch.end(node, step, found)
        if not found.dropped:  # what is thinned was looked at before
            node.stage.look_at(found, self.params)
        self._guard(node, found)
        return found

    def plan_for(self, rounds: int) -> None:
        """The run has so many rounds: a number that no stage reads."""
        self.params = self.params.model_copy(update={"rounds": rounds})
        self.record.params = self.params.model_dump(mode="json")
        self.record.command = f"{self.command} --set rounds={rounds}"
        if self._recording:
            self.record.write_head(self.directory)

    def take(self, node: Node) -> None:
        """Know a stage's artefact without recording it. Raises ``BadInput`` where it is not in the cache."""
        fingerprint = self.identify(node)
        found = self.find(node, fingerprint) or self.fetch(node, fingerprint)
        if found is None:
            raise BadInput(f"{node.place}: not in the cache; `{self.record.command}` makes it")
        self.done[node.place], self.nodes[node.place] = found, node

    def remake(self, node: Node) -> Artefact:
        """Make a thinned artefact again, in its place in the cache."""
        was = self.done[node.place]
        with self.store.lock(was.path.name):
            with suppress(Damaged):  # it may be whole by now, through another process
                if found := self.store.find(node.stage.name, was.fingerprint):
                    return found
            return self._make(node, was.fingerprint, was)

    def show_whole(self, place: str, lacking: Collection[str] = ()) -> None:
        """See to it that an artefact of the run is whole, in the cache and at the run's path."""
        restore(self, {place: lacking})
        publish(self.done[place], self.directory / place)

    def finish(self) -> None:
        """Every stage is done."""
        policies = {step.round: step.place for step in self.record.policies() if step.place in self.nodes}
        for round in {max(policies, default=0), best_round(scores(self.directory, self.record.steps)) or 0}:
            if round in policies:  # another run, or this one with other rounds, may have dropped it
                self.show_whole(policies[round], (MOMENTS,))
        self.thinning.drop(self.record, self.params)
        self.record.finished = True
        self.record.seconds = time.monotonic() - self._began
        self.record.write_head(self.directory)

    def stop(self, place: str, said: str) -> None:
        """This process ends at ``place``, before the run is finished; ``said`` is one line."""
        if self._recording:
            when = datetime.now(UTC).isoformat(timespec="seconds")
            self.record.stopped = Stop(place=place, said=said, when=when)
            self.record.write_head(self.directory)

    def _end_round(self, round: int) -> None:
        """Before the first stage of another round: what nothing reads any more goes, as ``keep`` says."""
        if round > self._round:
            self.thinning.drop(self.record, self.params)
        self._round = max(self._round, round)

    def _guard(self, node: Node, made: Artefact) -> None:
        """Hold the stage against the run's guards; what they say is recorded before a run stops."""
        if not self.params.guards:
            return
        try:
            for said in guards.look(self.params.guards, self.directory, node.place, made):
                if said not in self.record.warnings:
                    self.watch.note(said)
                    self.record.warnings = [*self.record.warnings, said]
                    self.record.write_head(self.directory)
        except guards.Stopped as stop:
            self.halt = stop
            raise

    def _lasting(self, node: Node) -> dict[str, Any]:
        name = node.stage.name
        if name not in self._facts:
            remote = self._remote_inputs.identities(name)
            self._facts[name] = lasting_facts(node.stage, self.params, remote)
        return self._facts[name]

    def _record(self, step: Step) -> None:
        if not self._recording:  # what an earlier process wrote of this run ends here, and not before
            self.record.write(self.directory)
            self._recording = True
        self.record.append(self.directory, step)

    def fetch(self, node: Node, fingerprint: str) -> Artefact | None:
        """The artefact from the remote, brought into the cache; None where it cannot be had there."""
        found = self._remote_cache.fetch(node.stage.name, fingerprint, self.watch.tell)
        if found is not None:
            self.watch.fetched(node, found)
        return found

    def _accepted(self, node: Node, fingerprint: str) -> Artefact | None:
        """One that another state of the source has made, where that is accepted."""
        if not {ALL, node.place} & set(self.accept):
            return None
        facts = self._lasting(node)
        other = other_code(self.store, node.stage.name, node.round, facts, self.inputs(node))
        if other is None:
            return None
        found, modules = other
        names = ", ".join(sorted(modules))
        self.watch.note(f"{node.place}: takes over {found.path.name} in spite of changes in {names}")
        return self.store.make(
            node.stage.name, fingerprint, lambda out: take_over(found, modules, facts, out)
        )

    def _make(self, node: Node, fingerprint: str, again: Artefact | None = None) -> Artefact:
        if again is None:
            self.watch.begin(node)
        with whole_inputs(self, node):
            made = self.store.make(
                node.stage.name, fingerprint, lambda out: self._fill(node, fingerprint, out), again
            )
        self.context.whole()
        give_back()
        return made

    def _fill(self, node: Node, fingerprint: str, out: Path) -> dict[str, Any]:
        """Run the stage; what its manifest says beside the files."""
        inputs, facts = self.inputs(node), self._lasting(node)
        self.context.tell, self.context.note = self.watch.tell, self.watch.note
        self.context.store = self.store
        began = time.monotonic()
        self._use_threads(node)
        params = self._remote_inputs.local(node.stage.name, self.watch.tell)
        if node.stage.role.kind == "learn":
            self.context.learning()
        answers = recorded_answers(self.store, node.stage, node.round, self.params, facts, inputs)
        if answers is not None:
            self.watch.note(f"{node.place}: judges the answers of {answers.path.name} anew")
        job = Job(node.stage.view(params), node.round, inputs, out, self.context, fingerprint, answers)
        with memory_errors(node.place), told_of(node.stage.task_at):
            measured = node.stage.load()(job)
        return {
            "role": node.stage.role,
            "round": node.round,
            "seed": self.params.seed,
            "params": facts["params"],
            "inputs": {name: source_of(artefact) for name, artefact in inputs.items()},
            "answers": answers and source_of(answers),
            "code": facts["code"],
            "own_files": facts["files"],
            "versions": facts["versions"],
            "measured": {**measured, "stage_seconds": time.monotonic() - began},
        }

    def _use_threads(self, node: Node) -> None:
        if "torch" in node.stage.libraries:
            import torch  # only here: a run that finds everything in the cache needs none of it

            torch.set_num_threads(self.params.threads or os.cpu_count() or 1)


def run_directory(root: Path, name: str) -> Path:
    """Where a run of that name lies."""
    return root / "runs" / name


def spelled(arguments: list[str]) -> str:
    """A command line that can be pasted into a shell."""
    return shlex.join(["ostinato", *arguments])
