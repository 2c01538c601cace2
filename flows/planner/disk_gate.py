"""Before runs start: whether their policies have room on the workspace's disk."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from flows.environment import workspace
from flows.planner import capacity
from flows.planner.memory_gate import known_shape
from params.base import BadInput
from params.keep import Keep
from params.schema import Params
from tasks.artefacts.record import RECORD, Record
from tasks.artefacts.store import SPARE, free_bytes

MASTER = 4
"""Bytes of a trained weight on disk, in float32."""
SMOLLM2 = "SmolLM2-135M"
FREE = frozenset({"guards", "keep", "rounds", "store", "threads", "trackers"})
"""Parameters in which runs may differ that make the same policies."""
LEAST = Keep(policies=("last", "best"), optimiser="last")
"""What a run can do with."""


def check_disk(params: Params) -> None:
    """Raises ``BadInput`` where a run's policies and their optimisers would fill the disk; says nothing of a
    model whose shape is not known before it is loaded."""
    shape = _shape(params)
    if shape is None:
        return
    room, needed = free_bytes(workspace()) - SPARE, forecast(params, shape)
    if needed <= room:  # what is there already decides nothing
        return
    taken = _own_policies(params)
    if needed > room + taken:
        raise BadInput(
            f"rounds: the policies of {params.rounds} rounds with their optimisers take "
            f"{needed / 1e9:.0f} GB, and {workspace()} has {room / 1e9:.0f}; expected room for them, "
            f"{_ways_out(params, shape, room + taken)}"
        )


def check_disk_of_all(runs: Sequence[Params]) -> None:
    """The same of a comparison's runs together, each of which has room alone."""
    room = free_bytes(workspace()) - SPARE
    needs = [(params, forecast(params, shape)) for params in runs if (shape := _shape(params))]
    if sum(needed for _, needed in needs) <= room:
        return
    more = sum(max(0.0, needed - _own_policies(params)) for params, needed in needs)
    if more > room:
        raise BadInput(
            f"the policies of {len(needs)} runs with their optimisers take {more / 1e9:.0f} GB, and "
            f"{workspace()} has {room / 1e9:.0f}; expected room for all: fewer seeds, arms or rounds, or "
            "--set 'keep={policies: [last, best], optimiser: last}'"
        )


def _shape(params: Params) -> capacity.Shape | None:
    return known_shape("smollm2-135m" if SMOLLM2 in params.model.source else params.model.source)


def _ways_out(params: Params, shape: capacity.Shape, room: float) -> str:
    """What would fit into the room, in words."""
    fewer = range(1, params.rounds + 1)  # of which more never take less
    most = bisect_right(fewer, room, key=lambda n: forecast(_with(params, rounds=n), shape))
    found = [f"at most {most} rounds" if most else "fewer rounds"]
    if params.update.adapter == "full":
        found.append("or update.adapter=lora")
    least = forecast(_with(params, keep=LEAST), shape)
    if params.keep != LEAST and least <= room:
        found.append(f"or keep={{policies: [last, best], optimiser: last}}, {least / 1e9:.0f} GB")
    return ", ".join(found)


def _with(params: Params, **changes: int | Keep) -> Params:
    return params.model_copy(update=changes)


def forecast(params: Params, shape: capacity.Shape) -> float:
    """Bytes of policies and moments of optimisers, where those go on, when the run takes most: while the last
    policy is made."""
    lora = params.update.adapter == "lora"
    trained = shape.adapter(params.update.lora_rank) if lora else shape.parameters
    moments = 2 if params.update.optimiser == "adamw_8bit" else 8
    if params.distil:  # its optimisers end with the round
        moments = 0
    policies, optimisers = _held(params)
    return float(trained * (policies * MASTER + optimisers * moments))


def _held(params: Params) -> tuple[int, int]:
    """How many policies and how many optimisers there are at once: those that stay, the best one, those that
    the round reads, and the one that it makes."""
    rounds, keep = params.rounds, params.keep
    read = 1 + max([params.rollout.lag, *(params.distil.rounds_back() if params.distil else ())])
    stay = sum(keep.wants(round) for round in range(1, rounds + 1))
    policies = min(rounds, stay + 1 + read + 1)
    return policies, policies if keep.optimiser == "all" else min(rounds, 2)


def _own_policies(params: Params) -> int:
    """Bytes of policies that are there already and that this run finds again: those of a run with the same
    parameters, its own as a rule, that was ended or had fewer rounds. Others' stay where they are."""
    own, found = _lasting(params.model_dump(mode="json")), [0]
    for path in (workspace() / "runs").glob(f"*/{RECORD}"):
        try:
            record = Record.read(path.parent)
        except BadInput:  # it says nothing of its policies
            continue
        if _lasting(record.params) == own:
            places = [path.parent / step.place for step in record.policies()]
            files = (file for place in places for file in place.rglob("*.safetensors"))
            found.append(sum(file.stat().st_size for file in files))
    return max(found)  # of two with the same parameters the files are the same


def _lasting(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name not in FREE}
