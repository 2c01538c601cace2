"""Linear layers as sampling on a CPU wants them: for the time of a block, layers that read the same input are
one product, their adapters' first products another, and 16-bit weights lie as oneDNN reads them.

The layers' own weights stay as they are; the copies, as large as the layers, go with the block. An adapter is
not merged: y = [W, (alpha / r) B] [x, A x], rounded once where the trainer rounds W x and the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tasks.policy.adapter import FusedLinear
from tasks.policy.hidden_states import hidden_states
from tasks.policy.load import head_weight

PROBE = (1, 2, 3)
Product = Callable[[Tensor], Tensor]
"""x [n, in] to [n, out]."""


def sharing_input(network: PreTrainedModel) -> list[list[nn.Module]]:
    """The linear layers of a model but its head, together where one input goes to several: by trying."""
    adapted = [module for module in network.modules() if isinstance(module, FusedLinear)]
    inner = {id(part) for module in adapted for part in module.modules()}
    head = head_weight(network)
    plain = [
        module
        for module in network.modules()
        if isinstance(module, nn.Linear) and id(module) not in inner and module.weight is not head
    ]
    read: list[tuple[nn.Module, Tensor]] = []
    with ExitStack() as stack:
        for module in (*adapted, *plain):
            hook = module.register_forward_pre_hook(lambda module, given: read.append((module, given[0])))
            stack.callback(hook.remove)
        with torch.inference_mode():
            hidden_states(network, input_ids=torch.tensor([PROBE]))
    groups: list[tuple[Tensor, list[nn.Module]]] = []
    for module, given in read:
        if groups and groups[-1][0] is given and module not in groups[-1][1]:
            groups[-1][1].append(module)
        else:
            groups.append((given, [module]))
    modules = [module for _, group in groups for module in group]
    once = {id(module) for module in modules if modules.count(module) == 1}
    return [kept for _, group in groups if (kept := [each for each in group if id(each) in once])]


@contextmanager
def packed_layers(network: PreTrainedModel, groups: Sequence[Sequence[nn.Module]]) -> Iterator[None]:
    """Inside the block the layers of ``groups`` compute by copies of their weights of now; for inference, and
    in one thread."""
    changed: list[Any] = []
    try:
        for group in groups:
            in_4_bits = any(hasattr(getattr(each, "base_layer", each), "packed") for each in group)
            if not in_4_bits:
                joint = _Joint(group)
                for place, module in enumerate(group):
                    changed.append(module)
                    module.forward = joint.of(place)
        yield
    finally:
        for module in changed:
            del module.forward  # which leaves its class's


class _Joint:
    """Several layers as one."""

    def __init__(self, layers: Sequence[Any]) -> None:
        adapted = [each for each in layers if isinstance(each, FusedLinear)]
        plain = [getattr(each, "base_layer", each) for each in layers]
        weights = [each.weight for each in plain]
        kind = weights[0].dtype
        self._sizes = [len(weight) for weight in weights]
        bias = _bias([each.bias for each in plain], weights)
        self._down: Product | None = None
        joint = torch.cat(weights)
        if len(adapted) == len(layers) and not any(each.disable_adapters for each in adapted):
            down = torch.cat([each.parts()[1] for each in adapted])
            up = torch.block_diag(*(each.parts()[2] * each.scale() for each in adapted))
            self._down = product(down.to(kind))
            joint = torch.cat([joint, up.to(kind)], 1)
        self._joint = product(joint, bias)
        self._given: Tensor | None = None
        self._parts: tuple[Tensor, ...] = ()
        self._left = 0
        """Of the parts, how many have not been asked for."""

    def of(self, place: int) -> Callable[..., Tensor]:
        """What the layer at this place computes."""

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if self._given is not x:
                self._given, self._parts, self._left = x, self._all(x), len(self._sizes)
            part = self._parts[place]
            self._left -= 1
            if not self._left:  # or every layer would hold its part of a pass
                self._given, self._parts = None, ()
            return part

        return forward

    def _all(self, x: Tensor) -> tuple[Tensor, ...]:
        flat = x.reshape(-1, x.shape[-1])
        out = self._joint(flat if self._down is None else torch.cat([flat, self._down(flat)], 1))
        parts: tuple[Tensor, ...] = out.view(*x.shape[:-1], -1).split(self._sizes, -1)
        return parts


def _bias(each: Sequence[Tensor | None], weights: Sequence[Tensor]) -> Tensor | None:
    if all(bias is None for bias in each):
        return None
    zeros = (weight.new_zeros(len(weight)) for weight in weights)
    return torch.cat([zero if bias is None else bias for bias, zero in zip(each, zeros, strict=True)])


def product(weight: Tensor, bias: Tensor | None = None) -> Product:
    """The product with a weight [out, in] as it is now."""
    if weight.dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return lambda x: functional.linear(x, weight, bias)
    one: Any = torch.ops.mkldnn  # what torch.compile makes of a linear layer
    packed = one._reorder_linear_weight(weight.contiguous(), None)

    def multiplied(x: Tensor) -> Tensor:
        found: Tensor = one._linear_pointwise(x, packed, bias, "none", [], "")
        return found

    return multiplied
