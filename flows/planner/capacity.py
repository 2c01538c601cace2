"""What a round takes on a machine that one may not have: operations, bytes and seconds from shapes and rates.

All of it is our own model, in closed form: products are counted, divided by what the machine reaches of them;
what is kept is added up. `docs/plan.md` holds its predictions against measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

GIB = 2.0**30
MASTER = 8
"""Bytes of a trained weight beside the optimiser's moments: float32 itself and its gradient."""
PACKED = 0.5625
"""Bytes of a weight in 4 bits, with a float32 scale to 64 of them."""
HEAD_BYTES = 9.0
"""On a GPU, of a position of the head, for each word: measured, of logits, their derivatives and scores."""
TRAINED = "trained weights, gradients, optimiser"
"""What a part of the trainer's memory is called."""
INSIDE = 1.6
"""A checkpointed layer's inside and its gradients, of what it would keep otherwise: measured."""


@dataclass(frozen=True)
class Shape:
    """A transformer decoder with gated feed-forward layers."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool

    @property
    def widths(self) -> list[tuple[int, int]]:
        """Inputs and outputs of a layer's linear maps: queries, keys, values, output, gate, up, down."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        wide = self.intermediate
        maps = [(self.hidden, query), (self.hidden, key), (self.hidden, key), (query, self.hidden)]
        return [*maps, (self.hidden, wide), (self.hidden, wide), (wide, self.hidden)]

    @property
    def linear(self) -> int:
        """Weights of all linear maps but the head."""
        return self.layers * sum(ins * outs for ins, outs in self.widths)

    @property
    def head(self) -> int:
        """Weights of the head."""
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """All weights; those of the norms are left out."""
        return self.linear + self.head * (1 if self.tied else 2)

    def adapter(self, rank: int) -> int:
        """Weights of a LoRA adapter of this rank on every linear map."""
        return self.layers * rank * sum(ins + outs for ins, outs in self.widths)

    def kv_bytes(self, bytes_each: int = 2) -> int:
        """Of the key-value cache, for one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_each


@dataclass(frozen=True)
class Work:
    """A round: ``problems`` prompts of ``prompt`` tokens, ``samples`` responses of ``response`` tokens."""

    problems: int
    samples: int
    prompt: int
    response: float
    passes: int = 1
    """Passes of the update over the round."""

    @property
    def sequences(self) -> int:
        """Responses a round."""
        return self.problems * self.samples

    @property
    def tokens(self) -> float:
        """Response tokens."""
        return self.sequences * self.response

    @property
    def positions(self) -> float:
        """Of an update in which responses share their prompt."""
        return self.problems * self.prompt + self.tokens

    @property
    def pairs(self) -> float:
        """Of a position and one that it sees: within a prompt, from a response to it, within a response."""
        return self.problems * self.prompt**2 / 2 + self.sequences * self.response_pairs

    @property
    def response_pairs(self) -> float:
        """Those of one response."""
        return self.response * self.prompt + self.response**2 / 2


@dataclass(frozen=True)
class Machine:
    """What a device reaches. Rates in FLOP/s and bytes/s, memory in bytes, shares of 1."""

    memory: float
    peak: float
    bandwidth: float
    update_share: float
    prefill_share: float
    decode_share: float
    bandwidth_share: float
    step_seconds: float
    process: float
    engine_process: float
    hand_over_seconds: float
    hand_over_rate: float
    round_seconds: float
    side_by_side: float


@dataclass(frozen=True)
class MachineUse:
    """What is run, and on how many devices."""

    devices: int = 1
    adapter_rank: int | None = 16
    """``None``: all weights are trained."""
    micro_batch: int = 1024
    """Token positions in one forward pass."""
    head_chunk: int = 512
    head_bytes: float = 4.0
    """Of a position of the head, for each word: logits and what is made of them."""
    max_sequences: int = 128
    """Responses that one server decodes side by side."""
    cache: float | None = None
    """Bytes of the key-value cache of one server; ``None``: what ``memory_fraction`` leaves."""
    memory_fraction: float = 0.5
    """Share of a device's memory that the engine takes."""
    checkpointing: bool = False
    """Of each layer's activations, its input alone is kept."""
    moments: int = 8
    """Bytes of the optimiser's moments, a trained weight."""
    offload: bool = False
    """Masters of full weights, gradients and moments are in the host's memory."""
    bits: int = 16
    """Of a frozen linear layer's weight."""
    float_bytes: int = 2
    """Of a base weight's number, in the copy that sampling in the trainer's process makes."""


def update_flops(shape: Shape, work: Work, rank: int | None) -> float:
    """Of the products of forward and backward pass, counted as ``benchmarks/update.py`` counts them: frozen
    linear maps twice over, trained ones and attention three times, the head on response tokens alone."""
    trained, frozen = (shape.adapter(rank), shape.linear) if rank else (shape.linear, 0)
    linear = 2 * work.positions * (2 * frozen + 3 * trained)
    attention = 3 * 4 * work.pairs * shape.heads * shape.head_dim * shape.layers
    head = 2 * (2 if rank else 3) * work.tokens * shape.head
    return work.passes * (linear + attention + head)


def update_seconds(shape: Shape, work: Work, machine: Machine, choice: MachineUse) -> float:
    """The update's, on all devices."""
    rate = machine.peak * machine.update_share * choice.devices
    return update_flops(shape, work, choice.adapter_rank) / rate


@dataclass(frozen=True)
class Decoding:
    """How a round is sampled."""

    devices_a_server: int
    servers: int
    side_by_side: int
    """Responses that one server decodes at a time."""
    cache: float
    """Bytes of the key-value cache of one server."""
    step: float
    """Seconds of a decoding step."""
    seconds: float


def decoding(shape: Shape, work: Work, machine: Machine, choice: MachineUse) -> Decoding | None:
    """``None`` where no server of all devices holds the weights and the cache of one response.

    A step reads the weights and the cache once, or computes two operations a weight and response, whichever
    takes longer. Responses beyond what the cache holds begin when others end. Prompts are computed once.
    """
    weights = 2.0 * shape.parameters
    for together in (n for n in range(1, choice.devices + 1) if choice.devices % n == 0):
        left = together * (machine.memory * choice.memory_fraction - machine.engine_process) - weights
        cache = left if choice.cache is None else choice.cache
        one = shape.kv_bytes() * (work.prompt + work.response)
        if cache < one:
            continue
        servers = choice.devices // together
        mine = math.ceil(work.sequences / servers)
        active = min(mine, choice.max_sequences, int(cache / one))
        read = weights + active * shape.kv_bytes() * (work.prompt + work.response / 2)
        of_memory = read / (together * machine.bandwidth * machine.bandwidth_share)
        products = 2.0 * active * (shape.linear + shape.head)
        of_products = products / (together * machine.peak * machine.decode_share)
        step = machine.step_seconds + max(of_memory, of_products)
        prefill = 2.0 * math.ceil(work.problems / servers) * work.prompt * shape.linear
        seconds = prefill / (together * machine.peak * machine.prefill_share)
        seconds += mine / active * work.response * step
        return Decoding(together, servers, active, cache, step, seconds)
    return None


def hand_over_seconds(shape: Shape, machine: Machine, choice: MachineUse, merged: bool) -> float:
    """From the trainer to the engine: whole weights by way of a file where they are ``merged``."""
    return machine.hand_over_seconds + (2.0 * shape.parameters / machine.hand_over_rate if merged else 0.0)


def trainer_memory(shape: Shape, work: Work, machine: Machine, choice: MachineUse) -> dict[str, float]:
    """Bytes of a device, by part. What can be sharded is, over all devices (FSDP)."""
    trained = shape.adapter(choice.adapter_rank) if choice.adapter_rank else shape.parameters
    group = work.prompt + work.samples * work.response
    groups = max(1.0, choice.micro_batch // group)
    positions = machine.side_by_side * min(groups * group, choice.micro_batch)
    wide = 2 * (shape.heads + shape.kv_heads) * shape.head_dim
    layer = 4 * shape.hidden + 3 * shape.intermediate + wide
    head = machine.side_by_side * choice.head_chunk * shape.vocabulary * choice.head_bytes
    activations = positions * shape.layers * (shape.hidden if choice.checkpointing else layer) * 2.0
    if choice.checkpointing:  # a layer's inside is there after the head's
        activations += max(0.0, positions * INSIDE * layer * 2.0 - head)
    split = max(1.0, group / choice.micro_batch)  # a group that does not fit is cut
    seen = machine.side_by_side * groups * work.samples * work.response_pairs / split
    seen += machine.side_by_side * groups * work.prompt**2 / 2
    held = _held_weights(shape, choice, trained)
    if choice.offload and choice.adapter_rank is None:  # steps follow passes, whose memory is free then
        held[TRAINED] = max(0.0, held[TRAINED] - activations - head)
    return {
        "process": machine.process,
        **held,
        "activations": activations,
        "attention": seen * shape.layers * shape.heads * 6.0,
        "logits": head,
    }


def _held_weights(shape: Shape, choice: MachineUse, trained: int) -> dict[str, float]:
    """The weights' part of it. What 4 bits hold is not sharded; FSDP gathers a layer, embeddings and head."""
    packed = shape.linear if choice.bits == 4 else 0
    master: float = (MASTER + choice.moments) * trained / choice.devices
    if choice.offload:  # of full weights one at a time is here, of an adapter the live ones
        master = (MASTER + choice.moments) * shape.head if choice.adapter_rank is None else MASTER * trained
    parts = {
        "weights": 2.0 * (shape.parameters - packed) / choice.devices + PACKED * packed,
        TRAINED: master,
    }
    if choice.devices > 1:
        layer = (shape.linear - packed) / shape.layers
        parts["gathered weights"] = 2.0 * (layer + shape.parameters - shape.linear)
    return parts


def engine_memory(shape: Shape, machine: Machine, found: Decoding) -> dict[str, float]:
    """Bytes of a device, by part."""
    return {
        "process": machine.engine_process,
        "weights": 2.0 * shape.parameters / found.devices_a_server,
        "key-value cache": found.cache / found.devices_a_server,
    }
