"""The ranks that share one update: which micro-batches each computes, and what they exchange.

A process without a launcher is rank 0 of 1, and everything here costs nothing. Otherwise each rank holds a
shard of every layer's weights, gathers a layer's before it computes with it and adds up the layer's gradients
over all ranks (FSDP2, ``torch.distributed.fsdp.fully_shard``). All ranks therefore make the same number of
passes: a rank that has run out of micro-batches computes a dummy micro-batch, whose results are dropped.

Gradients are summed, not averaged: a term has fixed its denominator over the whole step.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tasks.policy.load import decoder_layers

ROOT = "_ostinato_root"
_first_machine: dict[str, dist.Store] = {}
T = TypeVar("T")
N = TypeVar("N", bound=nn.Module)


class Assignment(NamedTuple):
    """A micro-batch that a rank computes, by its place in the plan; ``dummy`` where the result is dropped."""

    micro_batch: int
    dummy: bool


def join(rendezvous: str | None, timeout_seconds: int) -> None:
    """Join the process group of the ranks that the launcher started; they find each other through the file
    ``rendezvous``, or through the launcher of the first of several machines.

    A rank that waits for the others for longer than the timeout fails. On GPUs each rank takes one.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    store: dist.Store
    if rendezvous is None:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = _first_machine["store"] = dist.TCPStore(host, port, is_master=False)
    else:
        store = dist.FileStore(rendezvous, size)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_seconds)
    )


def wait_for_all() -> None:
    """Return once every rank has come this far."""
    dist.barrier()


def check_alive() -> None:
    """End this rank where the launcher of the first machine, over which several met, is gone."""
    try:
        for store in _first_machine.values():
            store.check(["alive"])
    except (dist.DistError, RuntimeError):
        sys.exit("the first machine is gone")


def world_size() -> int:
    """The number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def assigned(count: int) -> list[Assignment]:
    """This rank's part of ``count`` micro-batches, round robin; equally many for every rank."""
    indices = range(rank(), -(-count // world_size()) * world_size(), world_size())
    return [Assignment(i, False) if i < count else Assignment(0, True) for i in indices]


def gather_in_order(mine: Sequence[T]) -> list[T]:
    """All ranks' results for what they were ``assigned``, in the order of the plan, dummies last.

    A result is what JSON can hold.
    """
    if world_size() == 1:
        return list(mine)
    rounds = itertools.zip_longest(*_all_gather(list(mine)))
    return [result for each in rounds for result in each]


def reduce_known(values: Tensor) -> Tensor:
    """All ranks' parts of ``values``, a CPU tensor of which each rank knows some and has NaN elsewhere."""
    if world_size() > 1:
        known = ~values.isnan()
        values = values.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
        counts = known.to(torch.int32)
        dist.all_reduce(values)
        dist.all_reduce(counts)
        values[counts == 0] = torch.nan
    return values


def shard(network: N, device: torch.device) -> N:
    """Leave this rank its shard of the weights, on ``device``; ``forward`` gathers them a layer at a time.

    Raises ``BadInput`` for a model that has no list of layers.
    """
    if world_size() == 1:
        return network
    mesh = init_device_mesh(device.type, (world_size(),))
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    root = _Root(network)
    for layer in decoder_layers(network):
        fully_shard(layer, mesh=mesh, mp_policy=exact)
    fully_shard(root, mesh=mesh, mp_policy=exact, reshard_after_forward=True)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    object.__setattr__(network, ROOT, root)  # not as a module: it holds the network
    return network


def forward(network: nn.Module, work: Callable[[], T]) -> T:
    """Run ``work``, a forward pass of ``network``, its weights gathered; it returns tensors in a tuple."""
    root = getattr(network, ROOT, None)
    return work() if root is None else root(work)


def gradients(loss: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Of the loss with respect to the leaves; where leaves are sharded, of the sum of all ranks' losses."""
    if world_size() == 1:
        return torch.autograd.grad(loss, leaves, allow_unused=True)
    loss.backward()
    found = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    return found


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor whole again; every rank must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_full(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole copies on the CPU, by name, for rank 0; the other ranks must call this too and get nothing."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        one = full_tensor(tensor.detach())
        if rank() == 0:
            found[name] = one.cpu().contiguous()
    return found


def placed_like(tensor: Tensor, target: Tensor) -> Tensor:
    """A whole ``tensor`` on the device of ``target``; where that is sharded, this rank's shard of it."""
    moved = tensor.to(target.device)
    if isinstance(tensor, DTensor) or not isinstance(target, DTensor):
        return moved
    return distribute_tensor(moved, target.device_mesh, target.placements, src_data_rank=None)


class _Root(nn.Module):
    """The module that FSDP wraps: any computation with the network's weights is its forward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, work: Callable[[], T]) -> T:
        return work()


def _all_gather(value: Any) -> list[Any]:
    """Every rank's value, by rank."""
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(lengths, torch.tensor([len(text)]))
    longest = int(max(lengths))
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(text)] = text
    texts = [torch.empty(longest, dtype=torch.uint8) for _ in range(world_size())]
    dist.all_gather(texts, padded)
    return [
        json.loads(bytes(text[: int(length)].tolist())) for text, length in zip(texts, lengths, strict=True)
    ]
