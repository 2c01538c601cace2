"""What an update's forward and backward pass holds on a GPU, found without one, against `ostinato plan`.

    python benchmarks/memory.py                     1.5b and 7b, LoRA, with and without checkpointing
    python benchmarks/memory.py --models 7b --adapters full --positions 4096
    python benchmarks/memory.py --models 32b --adapters lora full --devices 8 --checkpointing on
    python benchmarks/memory.py --tiny              the same code with a tiny model

On several --devices it is one rank's, of weights that FSDP shards and gathers over a process group that is
fake, too. The pass runs on fake tensors, which have a shape and a type and no values: the product's own
layers, kernels of attention, head and gradients, on one sequence of --positions, of which a ninth is the
prompt. Held are all storages that are alive, by what they hold at the moment; the peak is their largest sum.
The gradients of micro-batches before it are there. What is one compiled kernel on a GPU makes its results and
nothing on the way. The optimiser's moments, 8 bytes a trained weight, are added to what a pass holds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import random_models
import shared
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PreTrainedModel

from flows.planner import capacity
from params.load import compose
from params.schema import Params
from tasks.policy import (
    adapter,
    distributed,
    full,
    lm_head_fused,
    packing,
    prefix_attention,
    rms_norm,
    rotary,
    swiglu,
)
from tasks.policy.checkpointing import checkpoint_layers
from tasks.policy.hidden_states import batch_states
from tasks.policy.lm_head_fused import fused_head
from tasks.policy.trained_weights import TrainedWeights

GB = 1e9
HERE = torch.device("cpu")

KERNELS: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (swiglu, "_product", lambda gate, up: torch.empty_like(gate)),
    (swiglu, "_gradients", lambda grad, gate, up: (torch.empty_like(gate), torch.empty_like(up))),
    (rotary, "_rotated", lambda x, cos, sin: torch.empty_like(x)),
    (rotary, "_rotated_back", lambda grad, cos, sin: torch.empty_like(grad)),
    (
        lm_head_fused,
        "_score_logits",
        lambda logits, target, _: (*logits.new_empty(2, len(target)).float(), torch.empty_like(logits)),
    ),
)
"""What is compiled on a GPU: the results alone."""


RESIZE = torch.UntypedStorage.resize_


class Held(TorchDispatchMode):
    """Bytes of all storages that operations made and that are alive; FSDP resizes some when it gathers."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.now = self.peak = 0

    def note(self, x: object) -> None:
        """Count a tensor's storage, once; that of a sharded one is its shard's, which comes by itself."""
        if isinstance(x, Tensor) and not isinstance(x, DTensor):
            storage = x.untyped_storage()
            seen = StorageWeakRef(storage)
            if seen.cdata not in self._alive:
                self._alive[seen.cdata] = seen, storage.nbytes()
                self.now += storage.nbytes()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for place, (seen, size) in list(self._alive.items()):
            if seen.expired():
                del self._alive[place]
                self.now -= size
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            self.note(x)
        self.peak = max(self.peak, self.now)
        return made

    def resize(self) -> Callable[[torch.UntypedStorage, int], torch.UntypedStorage]:
        """For a storage's own ``resize_``."""

        def resized(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
            seen = StorageWeakRef(storage)
            if seen.cdata in self._alive:
                self.now += size - self._alive[seen.cdata][1]
                self._alive[seen.cdata] = seen, size
            return RESIZE(storage, size)

        return resized


def network(shape: capacity.Shape) -> PreTrainedModel:
    """A Qwen2 of this shape without any values."""
    with torch.device("meta"):
        made: PreTrainedModel = AutoModelForCausalLM.from_config(
            random_models.config(shape), dtype=torch.bfloat16
        )
    for module in (rms_norm, rotary, swiglu):  # whether they fit is asked of values
        with mock.patch.object(module, "_is_silu" if module is swiglu else "_is_plain", return_value=True):
            module.speed_up(made)
    return made.eval().requires_grad_(False)


def fill(module: nn.Module) -> None:
    """Fake tensors in place of parameters and buffers; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, old in list(store.items()):
                if old is not None:
                    if id(old) not in made:
                        new = torch.empty(old.shape, dtype=old.dtype)
                        made[id(old)] = (
                            nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                        )
                    store[name] = made[id(old)]  # type: ignore[assignment]


def weights_of(model: PreTrainedModel, params: Params) -> TrainedWeights:
    """The trained part over fake tensors; to be called in fake mode."""
    if params.update.adapter == "full":
        fill(model)
        return full.FullWeights(model, lambda _: model, None, params, HERE)
    with torch.device("meta"), mock.patch.object(distributed, "shard", lambda network, _: network):
        made = adapter.AdapterWeights(model, lambda _: model, None, params, HERE)
    fill(model)
    distributed.shard(model, HERE)
    for name, layer in made._layers.items():
        _, a, b = layer.parts()
        made.masters[f"base_model.model.{name}.lora_A.weight"] = a
        made.masters[f"base_model.model.{name}.lora_B.weight"] = b
    return made


@contextmanager
def ranks(devices: int) -> Iterator[None]:
    """This process as the first of so many ranks, whose others do not exist."""
    if devices == 1:
        yield
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=devices)
    mesh = init_device_mesh(HERE.type, (devices,))
    try:
        with mock.patch.object(distributed, "init_device_mesh", return_value=mesh):
            yield
    finally:
        dist.destroy_process_group()


def measure(
    shape: capacity.Shape, params: Params, positions: int, chunk: int, devices: int = 1
) -> tuple[int, int]:
    """Bytes that a device holds before a pass that is not the first of its step, and at its peak."""
    prompt = positions // 9
    response = list(range(positions - prompt))
    row = packing.Row(tuple(range(prompt)), (0,), positions - 1)
    batch = packing.build([row], [response], [0])
    model, held = network(shape), Held()
    with ranks(devices), FakeTensorMode(allow_non_fake_inputs=True), ExitStack() as patches:
        patches.enter_context(mock.patch.object(torch.UntypedStorage, "resize_", held.resize()))
        patches.enter_context(mock.patch.object(full, "moves_gradients", return_value=devices == 1))
        for module, name, result in KERNELS:
            patches.enter_context(mock.patch.object(module, name, result))
        weights = weights_of(model, params)
        if params.update.checkpointing:
            checkpoint_layers(model)
        tensors = {n: x for n, x in vars(batch).items() if isinstance(x, Tensor) and n != "index"}
        fakes: dict[str, Any] = {n: torch.empty(x.shape, dtype=x.dtype) for n, x in tensors.items()}
        batch = dataclasses.replace(batch, **fakes)
        gradients = []  # of the micro-batches before
        for master in weights.masters.values():
            master.grad = torch.empty_like(master)
            gradients.append(master.grad)
        for x in (*model.parameters(), *model.buffers(), *weights.masters.values(), *gradients):
            held.note(x.to_local() if isinstance(x, DTensor) else x)
        before = held.now
        with held, prefix_attention.use_prefix_attention(model):

            def work() -> tuple[Tensor, ...]:
                states = batch_states(model, batch, "flash").flatten(0, 1).index_select(0, batch.predictor)
                head = model.get_output_embeddings().weight
                return fused_head(states, head, batch.target, 1.0, chunk, False, True)

            logp = distributed.forward(model, work)[0]
            weights.add_gradients(weights.gradients(logp.sum()))
    return before, held.peak


def predicted(shape: capacity.Shape, params: Params, positions: int, chunk: int, devices: int = 1) -> float:
    """What the plan says of a device of the trainer, without its process."""
    work = capacity.Work(1, 1, positions // 9, positions - positions // 9)
    machine = capacity.Machine(*[1.0] * len(dataclasses.fields(capacity.Machine)))
    choice = capacity.MachineUse(
        devices=devices,
        adapter_rank=params.update.lora_rank if params.update.adapter == "lora" else None,
        micro_batch=positions,
        head_chunk=chunk,
        head_bytes=capacity.HEAD_BYTES,
        checkpointing=params.update.checkpointing,
    )
    parts = capacity.trainer_memory(shape, work, machine, choice)
    return sum(value for part, value in parts.items() if part not in ("process", "attention"))


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["1.5b", "7b"], help="of params/shapes.yaml")
    parser.add_argument("--adapters", nargs="+", choices=("lora", "full"), default=["lora"])
    parser.add_argument("--positions", type=int, default=9216)
    parser.add_argument("--head-chunk", type=int, default=4096)
    parser.add_argument("--devices", type=int, default=1, help="over which FSDP shards")
    parser.add_argument("--checkpointing", choices=("on", "off", "both"), default="both")
    chosen = shared.arguments(parser, models=["tiny"], adapters=["lora", "full"], positions=90, head_chunk=16)
    found = []
    for name in chosen.models:
        shape = random_models.shape(name)
        for kind in chosen.adapters:
            for sparing in {"on": (True,), "off": (False,), "both": (False, True)}[chosen.checkpointing]:
                settings = [f"update.adapter={kind}", f"update.checkpointing={sparing}"]
                params = compose("nano", "sums", "grpo", ["model.dtype=bfloat16", *settings])
                sizes = (chosen.positions, chosen.head_chunk, chosen.devices)
                before, peak = measure(shape, params, *sizes)
                rank = params.update.lora_rank if kind == "lora" else None
                moments = 8 * (shape.adapter(rank) if rank else shape.parameters) / chosen.devices
                plan = predicted(shape, params, *sizes)
                figures = {
                    "weights_gb": before / GB,
                    "pass_mb_a_position": (peak - before) / chosen.positions / 1e6,
                    "peak_gb": (peak + moments) / GB,
                    "plan_gb": plan / GB,
                    "plan_over_peak": plan / (peak + moments),
                }
                words = f"{name} {kind}{', checkpointing' if sparing else ''}, {chosen.positions} positions"
                words += f", one of {chosen.devices} devices" if chosen.devices > 1 else ""
                shared.show(words, figures)
                found.append({"model": name, "adapter": kind, "checkpointing": sparing, **figures})
    print(json.dumps({"positions": chosen.positions, "head_chunk": chosen.head_chunk, "passes": found}))


if __name__ == "__main__":
    main()
