"""What sampling takes in the trainer's own process on a CPU, beside what the trainer holds anyway.

``benchmarks/sampling_memory.py`` holds it against a process; `docs/plan.md` has the figures.
"""

from __future__ import annotations

import math

from flows.planner.capacity import MachineUse, Shape, Work

PREFILL_TOKENS = 2048
"""As in ``tasks/engines/decoding.py``."""


def in_process_memory(shape: Shape, work: Work, use: MachineUse) -> dict[str, float]:
    """Bytes by part: the layers as sampling lays them out, keys and values, a layer's inside in a pass over
    prompts, scores of a step."""
    members, families = _places(shape, work, use)
    positions = families * (work.prompt + members * work.response)
    return {
        "packed layers": float(use.float_bytes * packed_numbers(shape, use)),
        "key-value cache": shape.kv_bytes(use.float_bytes) * positions,
        "activations": float(use.float_bytes * _pass(work) * _inside(shape)),
        "scores": float(use.float_bytes * families * members * shape.vocabulary),
    }


def packed_numbers(shape: Shape, use: MachineUse) -> int:
    """Of the copies: layers that read one input are one product, and so are their adapters, whose second
    matrices stand beside it, block by block. Of the head in float32 and layers in 4 bits there is no copy.
    """
    query, key, wide = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.intermediate
    joined = [
        (shape.hidden, (query, key, key)),
        (query, (shape.hidden,)),
        (shape.hidden, (wide, wide)),
        (wide, (shape.hidden,)),
    ]
    found = 0
    for inputs, outputs in joined:
        rank = len(outputs) * (use.adapter_rank or 0)
        found += sum(outputs) * (inputs + rank) + rank * inputs
    head = shape.head if use.float_bytes == 2 else 0
    return head + (0 if use.bits == 4 else shape.layers * found)


def _pass(work: Work) -> int:
    """Positions of prompts in one pass at most."""
    return max(work.prompt, min(PREFILL_TOKENS, work.problems * work.prompt))


def _inside(shape: Shape) -> int:
    """Numbers of a position in one layer."""
    wide = 2 * (shape.heads + shape.kv_heads) * shape.head_dim
    return 4 * shape.hidden + 3 * shape.intermediate + wide


def _places(shape: Shape, work: Work, use: MachineUse) -> tuple[int, int]:
    """Responses to a prompt and prompts that are held at once, as ``tasks/engines/decoding.py`` has it."""
    tokens = math.inf if use.cache is None else use.cache / shape.kv_bytes(use.float_bytes)
    fitting = (tokens - work.prompt) // work.response
    members = int(max(1, min(work.samples, use.max_sequences, fitting)))
    parts = work.problems * math.ceil(work.samples / members)
    room = tokens // (work.prompt + members * work.response)
    return members, int(max(1, min(parts, use.max_sequences // members, room)))
