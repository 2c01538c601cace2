"""The processes that share one update: what each does, and what they tell each other.

A process that nobody launched is rank 0 of 1, and everything here costs nothing. Otherwise each rank holds a
shard of every layer's weights, gathers a layer's before it computes with it and adds up the layer's gradients
over all ranks (FSDP2, ``torch.distributed.fsdp.fully_shard``). Passes are therefore in lock step: a rank that
has run out of micro-batches goes through a filler's, which counts for nothing.

Gradients are summed, not averaged: a term has fixed its denominator over the whole step.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from params.base import BadInput

ROOT = "_ostinato_root"
T = TypeVar("T")
N = TypeVar("N", bound=nn.Module)


class Turn(NamedTuple):
    """One place of a rank's work, and whether what it gives counts."""

    place: int
    counts: bool


def join(meeting: str, seconds: int) -> None:
    """Become one of the ranks that the launcher started; they meet in the file ``meeting``.

    A rank that waits for the others for more than ``seconds`` fails. On GPUs each rank takes one.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    store = dist.FileStore(meeting, size)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=seconds)
    )


def leave() -> None:
    """Say goodbye, once nobody needs anything any more."""
    dist.barrier()
    dist.destroy_process_group()


def count() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def this() -> int:
    """Which one this process is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(work: int) -> list[Turn]:
    """Which of so many places this rank does, as many for every rank; n ranks take places in turn."""
    places = range(this(), -(-work // count()) * count(), count())
    return [Turn(place, True) if place < work else Turn(0, False) for place in places]


def in_order(mine: Sequence[T]) -> list[T]:
    """What all ranks have of ``share``, which JSON can hold, in the order of the work, fillers at its end."""
    if count() == 1:
        return list(mine)
    turns = itertools.zip_longest(*_exchanged(list(mine)))
    return [one for turn in turns for one in turn]


def joined(values: Tensor) -> Tensor:
    """``values`` on the CPU, of which each rank knows a part and has NaN elsewhere, with all ranks' parts."""
    if count() > 1:
        known = ~values.isnan()
        values = values.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
        counts = known.to(torch.int32)
        dist.all_reduce(values)
        dist.all_reduce(counts)
        values[counts == 0] = torch.nan
    return values


def shard(network: N, device: torch.device) -> N:
    """Leave this rank its shard of the weights, on ``device``; ``within`` then brings them together.

    Raises ``BadInput`` for a model that has no list of layers.
    """
    if count() == 1:
        return network
    mesh = init_device_mesh(device.type, (count(),))
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    root = _Root(network)
    for layer in _layers(network):
        fully_shard(layer, mesh=mesh, mp_policy=exact)
    fully_shard(root, mesh=mesh, mp_policy=exact, reshard_after_forward=True)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    object.__setattr__(network, ROOT, root)  # not as a module: it holds the network
    return network


def within(network: nn.Module, work: Callable[[], T]) -> T:
    """``work``, a forward pass of ``network``; it gives a tuple whose tensors may take part in a loss."""
    root = getattr(network, ROOT, None)
    return work() if root is None else root(work)


def gradients(loss: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Of the loss with respect to the leaves; of leaves in shards, of all ranks' losses together."""
    if count() == 1:
        return torch.autograd.grad(loss, leaves, allow_unused=True)
    loss.backward()
    found = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    return found


def whole(tensor: Tensor) -> Tensor:
    """A tensor without its shards, which all ranks must ask for."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole copies on the CPU, by name, for rank 0 to write; the others help and get nothing."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        one = whole(tensor.detach())
        if this() == 0:
            found[name] = one.cpu().contiguous()
    return found


def like(tensor: Tensor, held: Tensor) -> Tensor:
    """A whole ``tensor`` on the device of ``held``, or this rank's shard of it where that is one."""
    if isinstance(tensor, DTensor) or not isinstance(held, DTensor):
        return tensor.to(held.device)
    moved = tensor.to(held.device)
    return distribute_tensor(moved, held.device_mesh, held.placements, src_data_rank=None)


class _Root(nn.Module):
    """What FSDP takes for the model: any computation with its weights is a forward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, work: Callable[[], T]) -> T:
        return work()


def _layers(network: nn.Module) -> Iterable[nn.Module]:
    """The decoder's layers: the longest list of modules."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise BadInput(f"{type(network).__name__}: has no list of layers to shard; expected update.ranks 1")
    return max(lists, key=len)


def _exchanged(value: Any) -> list[Any]:
    """Every rank's value, by rank."""
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(count())]
    dist.all_gather(lengths, torch.tensor([len(text)]))
    longest = int(max(lengths))
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(text)] = text
    texts = [torch.empty(longest, dtype=torch.uint8) for _ in range(count())]
    dist.all_gather(texts, padded)
    return [
        json.loads(bytes(text[: int(length)].tolist())) for text, length in zip(texts, lengths, strict=True)
    ]
