"""Before a run starts: whether its policies have room on the workspace's disk."""

from __future__ import annotations

from flows.environment import workspace
from flows.planner import capacity
from flows.planner.memory_gate import known_shape
from params.base import BadInput
from params.schema import Params
from tasks.artefacts.store import SPARE, free_bytes

MASTER = 4
"""Bytes of a trained weight on disk, in float32."""
SMOLLM2 = "SmolLM2-135M"


def check_disk(params: Params) -> None:
    """Raises ``BadInput`` where a run's policies and their optimisers would fill the disk; says nothing of a
    model whose shape is not known before it is loaded."""
    shape = known_shape("smollm2-135m" if SMOLLM2 in params.model.source else params.model.source)
    if shape is None:
        return
    room, taken = free_bytes(workspace()) - SPARE, _policies_there()
    needed = forecast(params, shape)
    if needed > room + taken:
        least = int((room + taken) // (needed / params.rounds))
        raise BadInput(
            f"rounds: the policies of {params.rounds} rounds with their optimisers take "
            f"{needed / 1e9:.0f} GB, and {workspace()} has {room / 1e9:.0f}; expected room for them, "
            f"{'fewer rounds' if least < 1 else f'at most {least} rounds'}"
            f"{', or update.adapter=lora' if params.update.adapter == 'full' else ''}"
        )


def forecast(params: Params, shape: capacity.Shape) -> float:
    """Bytes of the policies of all rounds, each with the moments of its optimiser, where that goes on."""
    lora = params.update.adapter == "lora"
    trained = shape.adapter(params.update.lora_rank) if lora else shape.parameters
    moments = 2 if params.update.optimiser == "adamw_8bit" else 8
    if params.distil:  # its optimisers end with the round
        moments = 0
    return float(params.rounds * trained * (MASTER + moments))


def _policies_there() -> int:
    """Bytes of policies that are in the workspace already, some of them perhaps this run's."""
    cache = workspace() / "artefacts"
    folders = (*cache.glob("update-*"), *cache.glob("distil-*"))
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*.safetensors"))
