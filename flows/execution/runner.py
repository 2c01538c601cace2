"""One run on one workspace: finds or makes each stage's artefact, shows it at the run's path, records it."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from flows.execution import external, guards
from flows.execution.accepted_code import ALL, other_code, take_over
from flows.execution.edits import Edits
from flows.execution.fingerprint import identity, lasting_facts
from flows.execution.making import Makers
from flows.execution.recording import Recording
from flows.execution.remote_cache import RemoteCache
from flows.execution.remote_inputs import RemoteInputs
from flows.execution.restoring import restore, whole_inputs
from flows.execution.retention import best_round
from flows.execution.thinning import Thinning, scores
from flows.execution.watch import Watch
from flows.stage_table.stages import Node, table_of
from params.base import BadInput
from params.schema import Params
from tasks.artefacts.artefact import EVERYTHING, MOMENTS, Artefact, Damaged
from tasks.artefacts.record import Record, Step
from tasks.artefacts.store import Store, publish
from tasks.core.context import Context
from tasks.core.errors import StageFailure

Outcome = Literal["made", "cached"]


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
    patience: float | None = None
    """For how many leases to wait for what another machine makes; None: for as long as it takes."""
    whole: bool = False
    """Whether nothing may be lacking of an artefact: DVC keeps directories as they are."""
    done: dict[str, Artefact] = field(default_factory=dict)
    """What is finished and checked, by place."""
    halt: guards.Stopped | None = None
    """The guard that stops the run."""
    nodes: dict[str, Node] = field(default_factory=dict)
    """The stages that were settled, by place, in their order."""
    waited: dict[str, tuple[float, str | None]] = field(default_factory=dict)
    """Where stages overlap: for how many seconds a stage was ready before it began, and which place had its
    resource meanwhile."""

    def __post_init__(self) -> None:
        self.store = Store(self.root)
        self.directory = run_directory(self.root, self.name)
        self._remote_inputs = RemoteInputs(self.root, self.params, self.context)
        note, remote = self.watch.note, self.params.store
        self._remote_cache = RemoteCache(self.store, remote, self.context, note, self.patience)
        self.thinning = Thinning(self.store, self.directory, self.watch.note)
        self.makers = Makers(self.context, self.params.threads)
        self._books = threading.RLock()  # stages that overlap are settled in threads of their own
        self._round = 0
        self._began = time.monotonic()
        self._facts: dict[str, dict[str, Any]] = {}
        self._reported: set[str] = set()
        self._external: dict[str, Artefact] = {}
        self.record = Record(
            name=self.name,
            command=self.command,
            params=self.params.model_dump(mode="json"),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._recording = Recording(self.directory, self.record)

    def continue_record(self, before: Record) -> None:
        """Keep the steps that earlier processes recorded, and the time that they took."""
        self._recording.continue_with(before)
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
        return identity(self.lasting(node), node.round, self.inputs(node))

    def find(self, node: Node, fingerprint: str) -> Artefact | None:
        """The artefact if it is in the cache, or at the run's path, whole or thinned; a damaged one is
        reported. One whose answers nobody could judge is to be made again, from the same answers."""
        found = self._in_cache(node, fingerprint)
        return None if found and not found.dropped and self._unjudged(node, found) else found

    def _in_cache(self, node: Node, fingerprint: str) -> Artefact | None:
        try:
            found = self.store.find(node.stage.name, fingerprint, () if self.whole else EVERYTHING)
        except Damaged as damage:
            if str(damage) not in self._reported:
                self.watch.note(f"{damage}; making it again")
            self._reported.add(str(damage))
            return None
        found = found or self.store.adopt(node.stage.name, fingerprint, self.directory / node.place)
        return None if self.whole and found and found.dropped else found

    def _unjudged(self, node: Node, found: Artefact) -> bool:
        """Whether a run has ended for its answers, which nobody could judge: that may be mended by now."""
        if not node.stage.keeps_answers:
            return False
        try:
            node.stage.look_at(found, self.params)
        except StageFailure:
            return True
        return False

    def settle(self, node: Node, fingerprint: str, found: Artefact | None = None) -> Artefact:
        """The artefact: the one that was ``found``, or found now, here or in the remote, or made. Afterwards
        it is shown at the run's path and recorded. Raises ``Elsewhere`` where ``patience`` ends."""
        began = time.monotonic()
        with self._books:
            self._end_round(node.round)
        outcome: Outcome = "cached"
        if found is None:
            place = self.store.path(node.stage.name, fingerprint).name
            with self.store.lock(place, waits=partial(self._waits, node)):
                found = self.find(node, fingerprint) or self.fetch(node, fingerprint)
                found = found or self._accepted(node, fingerprint)
                if found is None:
                    found, outcome = self._make_once(node, fingerprint)
        with self._books:
            self._settled(node, found, outcome, began)
        return found

    def _waits(self, node: Node, process: str) -> None:
        self.watch.note(f"{node.place}: process {process} is at the same artefact; waiting for it")

    def _settled(self, node: Node, found: Artefact, outcome: Outcome, began: float) -> None:
        publish(found, self.directory / node.place)
        self.done[node.place], self.nodes[node.place] = found, node
        now = time.monotonic()
        waited, waited_for = self.waited.get(node.place, (0.0, None))
        step = Step(
            place=node.place,
            stage=node.stage.name,
            role=node.stage.role,
            round=node.round,
            fingerprint=found.fingerprint,
            digest=found.digest,
            outcome=outcome,
            seconds=now - began,
            elapsed=now - self._began,
            waited=waited,
            waited_for=waited_for,
        )
        self._recording.add(step)
        self.watch.end(node, step, found)
        if not found.dropped:  # what is thinned was looked at before
            node.stage.look_at(found, self.params)
        self._guard(node, found)

    def plan_for(self, rounds: int) -> None:
        """The run has so many rounds: a number that no stage reads."""
        self.params = self.params.model_copy(update={"rounds": rounds})
        self.record.params = self.params.model_dump(mode="json")
        self.record.command = f"{self.command} --set rounds={rounds}"
        self._recording.changed()

    def take(self, node: Node) -> None:
        """Know a stage's artefact without recording it. Raises ``BadInput`` where it is not in the cache."""
        fingerprint = self.identify(node)
        found = self._in_cache(node, fingerprint) or self.fetch(node, fingerprint)
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
        for round in {
            max(policies, default=0),
            best_round(scores(self.directory, self.record.steps, {})) or 0,
        }:
            if round in policies:  # another run, or this one with other rounds, may have dropped it
                self.show_whole(policies[round], (MOMENTS,))
        self.thinning.drop(self.record, self.params)
        self._recording.finish(time.monotonic() - self._began)

    def stop(self, place: str, said: str) -> None:
        """This process ends at ``place``, before the run is finished; ``said`` is one line."""
        self._recording.stop(place, said)

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
                    self._recording.warn(said)
        except guards.Stopped as stop:
            self.halt = stop
            raise

    @cached_property
    def edits(self) -> Edits:
        """What the stages stand on, read when this is first asked for."""
        rows = () if self.whole else table_of(self.params).values()  # DVC makes one stage a process
        return Edits((row for row in rows if row.when(self.params)), self.params)

    def lasting(self, node: Node) -> dict[str, Any]:
        """What the stage depends on in every round, its inputs apart."""
        name = node.stage.name
        if name not in self._facts:
            _ = self.edits  # before the first stage: all that the run stands on is read
            remote = self._remote_inputs.identities(name)
            self._facts[name] = lasting_facts(node.stage, self.params, remote)
        return self._facts[name]

    def fetch(self, node: Node, fingerprint: str) -> Artefact | None:
        """The artefact from the remote, brought into the cache; None where it cannot be had there."""
        found = self._remote_cache.fetch(node.stage.name, fingerprint, self._tell_of(node))
        if found is not None:
            self.watch.fetched(node, found)
        return found

    def _make_once(self, node: Node, fingerprint: str) -> tuple[Artefact, Outcome]:
        """Make it, unless another machine does: then wait for that."""
        tell, make = self.makers.heeding(self._tell_of(node)), partial(self._make, node, fingerprint)
        found, made = self._remote_cache.make_once(node.stage.name, fingerprint, tell, make)
        if not made:
            self.watch.fetched(node, found)
        return found, "made" if made else "cached"

    def local_params(self, node: Node) -> Params:
        """The parameters with local places instead of addresses, fetched. Raises ``RemoteTrouble``."""
        return self._remote_inputs.local(node.stage.name, self._tell_of(node))

    def _tell_of(self, node: Node) -> Callable[[str, int, int, dict[str, float]], None]:
        return partial(self.watch.tell, node.place)

    def _accepted(self, node: Node, fingerprint: str) -> Artefact | None:
        """One that another state of the source has made, where that is accepted."""
        if not {ALL, node.place} & set(self.accept):
            return None
        facts = self.lasting(node)
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
                node.stage.name,
                fingerprint,
                lambda out: self.makers.make(self, node, fingerprint, out),
                again,
            )
        self.makers.whole(node)
        return made


def run_directory(root: Path, name: str) -> Path:
    """Where a run of that name lies."""
    return root / "runs" / name


def spelled(arguments: list[str]) -> str:
    """A command line that can be pasted into a shell."""
    return shlex.join(["ostinato", *arguments])
