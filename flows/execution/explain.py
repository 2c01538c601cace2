"""Why a stage was made, or will be: in what it differs from the artefact that is nearest to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from flows.execution import external
from flows.execution.differences import TO_BE_MADE, Cause, differences, input_digests
from flows.execution.fingerprint import identity, lasting_facts
from flows.execution.recorded_answers import recorded_answers
from flows.execution.source import SOURCE, SourceTree
from flows.stage_table.stages import Node, Plan
from tasks.artefacts.artefact import EVERYTHING, MANIFEST, Artefact, Damaged
from tasks.artefacts.store import Store


@dataclass(frozen=True)
class Explained:
    """What is known of one stage of a run."""

    place: str
    stage: str
    state: Literal["cached", "to make"]
    causes: Sequence[Cause] = ()
    """What sets it apart from the nearest artefact; the first is the one to look at."""
    nearest: Artefact | None = None
    """The artefact of the same stage and round with the fewest differences; of several, the newest."""
    answers: Artefact | None = None
    """One whose answers are judged anew instead of sampling them anew."""


@dataclass
class Explaining:
    """A run's plan held against the cache, stage by stage."""

    store: Store
    plan: Plan
    source: SourceTree = SOURCE
    _found: dict[str, Artefact] = field(default_factory=dict)
    """What is in the cache, by place."""
    _facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What a stage depends on in every round, by its name."""
    _made: dict[str, dict[int, list[Artefact]]] = field(default_factory=dict)
    """What there is of a stage, by its name and by round."""

    @cached_property
    def stages(self) -> dict[str, Explained]:
        """Every stage by its place. Those that are in the cache have no causes: see ``origin``."""
        return {node.place: self._explained(node) for node in self.plan}

    def origin(self, place: str) -> Explained:
        """The same of one stage; of one that is in the cache, how it differs from its nearest neighbour."""
        known = self.stages[place]
        if known.state == "to make":
            return known
        own = self._found[place]
        manifest = own.manifest
        facts = {
            "params": manifest.params,
            "files": manifest.own_files,
            "versions": manifest.versions,
            "code": manifest.code,
        }
        causes, nearest = self._nearest(self.plan[place], facts, input_digests(manifest), own.fingerprint)
        return Explained(place, known.stage, "cached", causes, nearest)

    def _explained(self, node: Node) -> Explained:
        name = node.stage.name
        if name not in self._facts:
            self._facts[name] = lasting_facts(node.stage, self.plan.params, source=self.source)
        facts = self._facts[name]
        inputs = {each: self._found[at] for each, at in node.inputs.items() if at in self._found}
        missing = node.inputs.keys() - inputs.keys()
        for each, text in node.outside.items():
            inputs[each] = external.find(each, text, f"{name}: {each}")
        damage: list[Cause] = []
        answers = None
        if not missing:
            try:
                found = self.store.find(name, identity(facts, node.round, inputs), EVERYTHING)
            except Damaged as damaged:
                found, damage = None, [Cause("damaged", str(damaged))]
            if found is not None:
                self._found[node.place] = found
                return Explained(node.place, name, "cached")
            answers = recorded_answers(
                self.store, node.stage, node.round, self.plan.params, facts, inputs, self.source
            )
        digests = {each: made.digest for each, made in inputs.items()} | dict.fromkeys(missing, TO_BE_MADE)
        causes, nearest = self._nearest(node, facts, digests)
        return Explained(node.place, name, "to make", [*damage, *causes], nearest, answers)

    def _nearest(
        self, node: Node, facts: Mapping[str, Any], inputs: Mapping[str, str], apart: str = ""
    ) -> tuple[list[Cause], Artefact | None]:
        """The artefact from which a stage with these facts and digests of inputs differs least, and in what;
        ``apart`` is a fingerprint that does not count."""
        best: tuple[tuple[int, float], list[Cause], Artefact] | None = None
        name = node.stage.name
        if name not in self._made:
            self._made[name] = _made(self.store, name)
        for found in self._made[name].get(node.round, ()):
            if found.fingerprint == apart:
                continue
            causes = differences(facts, inputs, found.manifest)
            age = -(found.path / MANIFEST).stat().st_mtime
            rank = (len(causes), age)
            if best is None or rank < best[0]:
                best = (rank, causes, found)
        return ([Cause("new")], None) if best is None else (best[1], best[2])


def _made(store: Store, stage: str) -> dict[int, list[Artefact]]:
    """Every artefact of a stage whose manifest can be read, by round."""
    found: dict[int, list[Artefact]] = {}
    for path in store.artefacts.glob(f"{stage}-*"):
        try:
            artefact = Artefact.open(path, check=False)
        except (Damaged, FileNotFoundError, NotADirectoryError):
            continue
        if artefact.manifest.stage == stage:
            found.setdefault(artefact.manifest.round, []).append(artefact)
    return found
