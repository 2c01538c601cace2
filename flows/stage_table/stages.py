"""The stage table: the one definition of what runs, on what, and what it depends on.

Its rows are the ``ROWS`` of each module in ``flows/stage_table/rows`` and of those that a run names in
``stages``. From it come the Prefect tasks, ``dvc.yaml`` and ``ostinato stage NAME``.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from types import ModuleType
from typing import Any

from flows.stage_table import rows
from flows.stage_table.stage_def import POLICY, StageDef
from params import user_code
from params.base import BadInput, nearest, value_at
from params.schema import Params


@dataclass(frozen=True)
class Node:
    """One stage of one run: a row of the stage table at a round, and where its inputs and it lie."""

    place: str
    """In the run's directory: ``model``, ``round-03/update``."""
    stage: StageDef
    round: int
    inputs: dict[str, str]
    """Places by input name; an absent input is not in it."""
    outside: dict[str, str] = field(default_factory=dict)
    """Inputs that another run made, by name: as the user named them."""


@functools.cache
def stage_table(more: tuple[str, ...] = ()) -> Mapping[str, StageDef]:
    """Every row by name; ``more`` are the modules that a run names in ``stages``. Raises ``BadInput``."""
    own = sorted(module.name for module in pkgutil.iter_modules(rows.__path__))
    modules = [importlib.import_module(f"{rows.__name__}.{name}") for name in own]
    found: dict[str, StageDef] = {}
    for module in (*modules, *(user_code.load(name, "stages") for name in more)):
        for row in _rows(module):
            if row.name in found:
                raise BadInput(f"stages: {module.__name__} has a second row '{row.name}'; expected new names")
            found[row.name] = row
    return found


def table_of(params: Params) -> Mapping[str, StageDef]:
    """The rows of a run: those of the stage table, and what its parameters call for or change, such as two
    for each evaluation set. Raises ``BadInput``."""
    own = sorted(module.name for module in pkgutil.iter_modules(rows.__path__))
    modules = [importlib.import_module(f"{rows.__name__}.{name}") for name in own]
    table = dict(stage_table(params.stages))
    for module in modules:
        if hasattr(module, "rows_of"):
            table |= {row.name: row for row in module.rows_of(params, table)}
    return table


def _rows(module: ModuleType) -> Sequence[StageDef]:
    found = module.__dict__.get("ROWS")
    if not isinstance(found, tuple) or not all(isinstance(row, StageDef) for row in found):
        raise BadInput(f"stages: {module.__name__} has no ROWS; expected a tuple of StageDef")
    return found


class Plan:
    """Every stage of a run by its place, in an order in which each comes after its inputs."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.table = table_of(params)
        self._rounds = {name: frozenset(row.all_rounds(params)) for name, row in self.table.items()}
        for row in self.table.values():
            _check(row, self.table, params)
        self._policy = self._maker()
        self._start = next(
            (row for name, row in self.table.items() if row.starts() and self._rounds[name]), None
        )
        self._sources = {name: self._read(row) for name, row in self.table.items()}
        ordered = self._ordered([row for row in self.table.values() if self._rounds[row.name]])
        self.stages = sorted(ordered, key=lambda row: not row.once)
        once = [self.node(row, 0) for row in self.stages if row.once]
        later = [
            self.node(row, round)
            for round in range(params.rounds + 1)
            for row in self.stages
            if not row.once and round in self._rounds[row.name]
        ]
        self.nodes = {node.place: node for node in (*once, *later)}

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, place: str) -> Node:
        return self.nodes[place]

    def rounds(self, stage: str) -> list[int]:
        """The rounds in which the stage of that name runs. Raises ``BadInput`` for a name that is none."""
        if stage not in self.table:
            raise BadInput(f"stage {stage}: no such stage{nearest(stage, self.table)}")
        return sorted(self._rounds[stage])

    def at(self, stage: str, round: int) -> Node:
        """The stage of that name at a round; raises ``BadInput`` where it does not run then."""
        rounds = self.rounds(stage)
        if round not in self._rounds[stage]:
            when = f"expected one of {', '.join(map(str, rounds))}" if rounds else "nor ever in this run"
            raise BadInput(f"--round {round}: {stage} does not run then; {when}")
        return self.nodes[place_of(self.table[stage], round)]

    def node(self, row: StageDef, round: int) -> Node:
        """A row at a round, wired to those of its inputs that there are."""
        inputs = {}
        for name, maker, offset in self._sources[row.name]:
            made_in = 0 if maker.once else round + offset
            if made_in in self._rounds[maker.name]:
                inputs[name] = place_of(maker, made_in)
            elif self._start and maker.name == self._policy and offset < 0 and made_in <= 0:
                inputs[name] = place_of(self._start, 0)
        return Node(place_of(row, round), row, round, inputs, row.outside(self.params, round))

    def _maker(self) -> str:
        """The stage that makes the policy of each round."""
        name, *more = (
            name for name, row in self.table.items() if row.makes_policies() and self._rounds[name]
        )
        for other in more:
            raise BadInput(f"stages: {other}: makes the policy of each round, as {name} does; expected one")
        return name

    def _read(self, row: StageDef) -> list[tuple[str, StageDef, int]]:
        """The inputs of a row in this run: name, what makes it, and in which round from the row's."""
        lag = self.params.rollout.lag
        return [
            (
                name,
                self.table[self._policy if source.stage == POLICY else source.stage],
                source.offset - (lag if source.lags else 0),
            )
            for name, source in row.inputs.items()
            if source.when(self.params)
        ]

    def _ordered(self, chosen: Sequence[StageDef]) -> list[StageDef]:
        """Rows in an order in which each comes after those that it reads of its own round."""
        graph: TopologicalSorter[str] = TopologicalSorter()
        for row in chosen:
            same = [maker for _, maker, offset in self._sources[row.name] if not offset]
            graph.add(row.name, *(maker.name for maker in same if maker.once == row.once))
        try:
            order = list(graph.static_order())
        except CycleError as error:
            raise BadInput(f"stages: {' <- '.join(error.args[1])} read each other in one round") from None
        names = {row.name for row in chosen}
        return [self.table[name] for name in order if name in names]


def _check(row: StageDef, table: Mapping[str, StageDef], params: Params) -> None:
    """Refuse a row that reads what no stage makes or what is no parameter."""
    for source in row.inputs.values():
        if source.stage not in (POLICY, *table):
            raise BadInput(f"stages: {row.name}: input '{source.stage}'{nearest(source.stage, table)}")
    for path in row.parameters(params):
        section: Any = params
        for part in path.split("."):
            try:
                section = value_at(section, part)
            except (AttributeError, KeyError):
                known = section if isinstance(section, dict) else getattr(type(section), "model_fields", ())
                raise BadInput(f"stages: {row.name}: reads '{path}'{nearest(part, known)}") from None


def plan(params: Params) -> Plan:
    """Every stage of a run. Takes time in proportion to their number."""
    return Plan(params)


def place_of(row: StageDef, round: int) -> str:
    """Where the artefact of a stage lies inside its run."""
    return row.name if row.once else f"round-{round:02d}/{row.name}"
