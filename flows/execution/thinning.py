"""Dropping what a run's ``keep`` does not keep, while it goes on and when it ends.

Nothing goes that another run keeps by its own rules, or reads from this one; that DVC's pipeline names; or
that a process is reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from flows.execution import external
from flows.execution.disk import in_pipeline, records
from flows.execution.retention import EVERY_PART, Parts, going, part_of, still_read
from flows.stage_table.stages import Node, plan
from params.base import BadInput
from params.keep import Keep
from params.schema import Params
from tasks.artefacts.artefact import Artefact, Damaged
from tasks.artefacts.record import STEPS, Record, Step
from tasks.artefacts.store import Store
from tasks.artefacts.tables import read_table
from tasks.artefacts.thinned import thin

ANSWERS = "rollouts.parquet"
Claims = dict[str, Parts]
"""What must stay, by the name of the artefact's directory in the cache."""
Stamp = tuple[int, ...]
"""When a run's record was written."""


class Thinning:
    """Of one run. Remembers what is dropped already, so that a pass costs what is new."""

    def __init__(self, store: Store, directory: Path, note: Callable[[str], None]) -> None:
        self._store, self._directory, self._note = store, directory, note
        self._dropped: dict[str, Parts] = {}
        self._nodes: dict[int, list[Node]] = {}
        self._claims: dict[Path, tuple[Stamp, Claims]] = {}
        self._scores: dict[str, float] = {}
        self._told = False

    def forget(self, place: str) -> None:
        """That artefact is whole again."""
        self._dropped.pop(place, None)

    def drop(self, record: Record, params: Params) -> None:
        """Drop what can go of a run with these steps."""
        if params.keep == Keep():
            return
        if params.rounds not in self._nodes:
            self._nodes = {params.rounds: readers(params)}
        nodes = self._nodes[params.rounds]
        found = unneeded(self._directory, record.steps, params.keep, nodes, self._scores)
        found = {place: parts for place, parts in found.items() if parts - self._dropped.get(place, set())}
        if not found:
            return
        try:
            if pipeline := in_pipeline(self._store.root, record.name):
                raise BadInput(f"{pipeline} names this run, and DVC needs its outputs whole")
            others = self._others(record.name)
        except BadInput as reason:
            if not self._told:
                self._note(f"keep: nothing is dropped: {reason}")
            self._told = True
            return
        for step in record.steps:
            parts = found.get(step.place, frozenset())
            if parts:
                name = name_of(self._store, step)
                parts = parts.difference(*(claims.get(name, frozenset()) for claims in others))
            if parts and self._thin(step, parts, params):
                self._dropped[step.place] = parts

    def _others(self, but: str) -> list[Claims]:
        """What each other run keeps or reads. Raises ``BadInput`` for a record that cannot be read: what it
        names cannot be known."""
        found = []
        for path in records(self._store.root):
            if path.parent.name == but:
                continue
            stamp = tuple(file.stat().st_mtime_ns for file in (path, path.with_name(STEPS)) if file.exists())
            if self._claims.get(path, ((), {}))[0] != stamp:
                self._claims[path] = stamp, claims_of(self._store, path.parent)
            found.append(self._claims[path][1])
        return found

    def _thin(self, step: Step, parts: Parts, params: Params) -> bool:
        """Drop parts of a step's artefact, in the cache and in the run; False where a process reads it."""
        cached = self._store.path(step.stage, step.fingerprint)
        try:
            with self._store.lock(cached.name, "in use", moment=0.0):
                for place in (cached, self._directory / step.place):
                    with suppress(Damaged, FileNotFoundError, NotADirectoryError):
                        found = Artefact.open(place, check=False)
                        names = [name for name in found.manifest.files if part_of(step.role, name) in parts]
                        if found.fingerprint == step.fingerprint and names:
                            thin(self._store, place, names, _figures(found, names, params))
        except BadInput:
            return False
        return True


def unneeded(
    directory: Path, steps: Sequence[Step], keep: Keep, nodes: Sequence[Node], known: dict[str, float]
) -> dict[str, Parts]:
    """What a run there with these steps can do without, by place; ``nodes`` are its stages and further
    ones, ``known`` the scores that were read, which takes up more."""
    needed = still_read(nodes, {step.place for step in steps})
    return going(keep, steps, scores(directory, steps, known), needed)


def scores(directory: Path, steps: Sequence[Step], known: dict[str, float]) -> dict[int, float]:
    """The held-out scores, mean@n, of the policies of a run there by round, as far as they are at hand; those
    that are ``known``, by the evaluation's fingerprint, are not read again."""
    evaluations = [step for step in steps if step.stage == "evaluate" and step.round]
    for step in evaluations:
        if step.fingerprint not in known:
            with suppress(Damaged, FileNotFoundError, NotADirectoryError):
                made = Artefact.open(directory / step.place, check=False)
                value = made.json("scores.json")["mean_at_n"]["value"]
                if value is not None and made.fingerprint == step.fingerprint:
                    known[step.fingerprint] = value
    return {step.round: known[step.fingerprint] for step in evaluations if step.fingerprint in known}


def claims_of(store: Store, directory: Path) -> Claims:
    """What a run keeps by its rules, or reads of another. Raises ``BadInput`` where it cannot be read."""
    record = Record.read(directory)
    found, without = dict[str, Parts](), dict[str, Parts]()
    with suppress(BadInput):  # of another version, or with stages that are not here: it keeps all
        params = record.parameters()
        nodes = readers(params)
        found = dict.fromkeys(_read_elsewhere(store, nodes), EVERY_PART)
        without = unneeded(directory, record.steps, params.keep, nodes, {})
    for step in record.steps:
        name = name_of(store, step)
        found[name] = found.get(name, frozenset()) | EVERY_PART - without.get(step.place, frozenset())
    return found


def name_of(store: Store, step: Step) -> str:
    """The name of the directory of a step's artefact in the cache."""
    return store.path(step.stage, step.fingerprint).name


def readers(params: Params) -> list[Node]:
    """The stages of a run, and those of further rounds that would read of its own, were there more."""
    own, back = plan(params), 1
    for node in own:
        rounds = [own[place].round for place in node.inputs.values() if own[place].round]
        back = max([back, *(node.round - round for round in rounds)])
    more = plan(params.model_copy(update={"rounds": params.rounds + back}))
    return [*own, *(node for node in more if node.round > params.rounds)]


def _read_elsewhere(store: Store, nodes: Sequence[Node]) -> list[str]:
    """The artefacts of other runs that these stages read, by the names of their directories."""
    texts = {text for node in nodes for text in node.outside.values()}
    found = []
    for text in texts:
        with suppress(BadInput, Damaged, FileNotFoundError, NotADirectoryError):
            manifest = Artefact.open(external.place_of(text, "keep"), check=False).manifest
            found.append(store.path(manifest.stage, manifest.fingerprint).name)
    return found


def _figures(found: Artefact, names: Sequence[str], params: Params) -> dict[str, float | int | None]:
    """What the report is to say of answers that go."""
    if ANSWERS not in names or ANSWERS in found.dropped:
        return {}
    from tasks.report.run.data import rollout_figures  # scipy takes a second, and few runs drop any

    return rollout_figures(read_table(found.file(ANSWERS)), params, found.manifest.round)
