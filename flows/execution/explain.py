"""Why a stage was made, or will be: in what it differs from the artefact that is nearest to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from flows.execution.fingerprint import identity, lasting_facts, modules
from flows.execution.source import SOURCE, SourceTree
from flows.stage_table.stages import Node, Plan
from tasks.artefacts.artefact import MANIFEST, Artefact, Damaged, Manifest
from tasks.artefacts.store import Store
from tasks.report.format import flat

Kind = Literal["damaged", "parameter", "file", "library", "module", "input", "new"]


@dataclass(frozen=True)
class Cause:
    """One thing in which what is to be made differs from what there is."""

    kind: Kind
    name: str = ""
    """The parameter's key, the file's path, the library, the module, or the input."""
    before: Any = None
    now: Any = None


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


@dataclass
class Explaining:
    """A run's plan held against the cache, stage by stage."""

    store: Store
    plan: Plan
    source: SourceTree = SOURCE
    _found: dict[str, Artefact] = field(default_factory=dict)
    """What is in the cache, by place."""

    @cached_property
    def stages(self) -> dict[str, Explained]:
        """Every stage by its place. Those that are in the cache have no causes: see ``origin``."""
        return {node.place: self._explained(node) for node in self.plan}

    def origin(self, place: str) -> Explained:
        """The same of one stage; of one that is in the cache, how it differs from its nearest neighbour."""
        known = self.stages[place]
        if known.state == "to make":
            return known
        node, own = self.plan[place], self._found[place]
        causes, nearest = self._nearest(node, own.manifest.params, own.manifest, apart=own.fingerprint)
        return Explained(place, known.stage, "cached", causes, nearest)

    def _explained(self, node: Node) -> Explained:
        facts = lasting_facts(node.stage, self.plan.params, source=self.source)
        missing = [name for name, place in node.inputs.items() if place not in self._found]
        damage: list[Cause] = []
        if not missing:
            inputs = {name: self._found[place] for name, place in node.inputs.items()}
            try:
                found = self.store.find(node.stage.name, identity(facts, node.round, inputs))
            except Damaged as damaged:
                found, damage = None, [Cause("damaged", str(damaged))]
            if found is not None:
                self._found[node.place] = found
                return Explained(node.place, node.stage.name, "cached")
        wanted = _Wanted(
            facts["files"],
            self.source.digests(modules(node.stage, self.plan.params, self.source)),
            facts["versions"],
            {name: self._found[place].digest for name, place in node.inputs.items() if name not in missing},
        )
        causes, nearest = self._nearest(node, facts["params"], wanted)
        return Explained(node.place, node.stage.name, "to make", [*damage, *causes], nearest)

    def _nearest(
        self, node: Node, params: Mapping[str, Any], wanted: _Wanted | Manifest, apart: str = ""
    ) -> tuple[list[Cause], Artefact | None]:
        best: tuple[tuple[int, float], list[Cause], Artefact] | None = None
        for found in _made(self.store, node.stage.name):
            if found.fingerprint == apart or found.manifest.round != node.round:
                continue
            causes = _differences(node, params, wanted, found.manifest)
            age = -(found.path / MANIFEST).stat().st_mtime
            rank = (len(causes), age)
            if best is None or rank < best[0]:
                best = (rank, causes, found)
        return ([Cause("new")], None) if best is None else (best[1], best[2])


@dataclass(frozen=True)
class _Wanted:
    """What a manifest would say of a stage that is to be made, without inputs that are to be made too."""

    own_files: Mapping[str, str]
    code: Mapping[str, str]
    versions: Mapping[str, str]
    inputs: Mapping[str, str]


def _made(store: Store, stage: str) -> list[Artefact]:
    """Every artefact of a stage whose manifest can be read."""
    found = []
    for path in store.artefacts.glob(f"{stage}-*"):
        try:
            artefact = Artefact.open(path, check=False)
        except (Damaged, FileNotFoundError, NotADirectoryError):
            continue
        if artefact.manifest.stage == stage:
            found.append(artefact)
    return found


def _differences(
    node: Node, params: Mapping[str, Any], wanted: _Wanted | Manifest, then: Manifest
) -> list[Cause]:
    """In the order in which a person would look at them: an input is last, since it has causes of its own."""
    inputs = dict(wanted.inputs) if isinstance(wanted, _Wanted) else _digests(wanted)
    names = node.inputs if isinstance(wanted, _Wanted) else inputs
    now = {name: inputs.get(name, "to be made") for name in names}
    return [
        *_apart("parameter", flat(dict(then.params)), flat(dict(params))),
        *_apart("file", then.own_files, wanted.own_files),
        *_apart("library", then.versions, wanted.versions),
        *_apart("module", then.code, wanted.code),
        *_apart("input", _digests(then), now),
    ]


def _digests(manifest: Manifest) -> dict[str, str]:
    return {name: source.digest for name, source in manifest.inputs.items()}


def _apart(kind: Kind, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Cause]:
    names = [*before, *(name for name in now if name not in before)]
    found = (Cause(kind, name, before.get(name), now.get(name)) for name in names)
    return [cause for cause in found if cause.before != cause.now]
