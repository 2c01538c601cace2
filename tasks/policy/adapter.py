"""A LoRA adapter on every linear layer but the head: y = W x + (alpha / r) B A x.

Adapter weights are float32; the products run in the base weights' type. The adapter lives in peft's modules
and is written in peft's format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from params.base import BadInput
from params.schema import Params
from tasks.core import seeds
from tasks.policy import distributed
from tasks.policy.load import linear_layers
from tasks.policy.trained_weights import TrainedWeights

FOLDER = "adapter"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MEASURED_ROWS = 32
"""Rows of each weight matrix over which ``merge_loss`` is a mean."""


class AdapterWeights(TrainedWeights):
    """The trained part of a policy that is a base model and a LoRA adapter."""

    kind = "lora"
    file = f"{FOLDER}/{WEIGHTS}"

    def __init__(
        self,
        network: PreTrainedModel,
        load: Callable[[torch.device], PreTrainedModel],
        tokenizer: Any,
        params: Params,
        device: torch.device,
    ) -> None:
        layers = linear_layers(network)
        if not layers:
            raise BadInput(
                f"{type(network).__name__}: has no linear layers for LoRA; expected update.adapter full"
            )
        self.network = network
        self.fits = f"this model with update.lora_rank {params.update.lora_rank}"
        self._seed = params.seed
        self._config = LoraConfig(
            r=params.update.lora_rank,
            lora_alpha=cast(int, params.update.lora_alpha),
            target_modules=layers,
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        )
        self._config._register_custom_module({nn.Linear: FusedLinear})
        with torch.random.fork_rng(devices=[]):  # peft draws a first A, which reset() replaces
            self._peft: Any = get_peft_model(network, self._config, autocast_adapter_dtype=True)
        distributed.shard(network, device)
        self._layers = {
            name: module
            for name, module in sorted(network.named_modules())
            if isinstance(module, FusedLinear)
        }
        self.masters: dict[str, Tensor] = {}
        for name, layer in self._layers.items():
            _, a, b = layer.parts()
            self.masters[f"base_model.model.{name}.lora_A.weight"] = a
            self.masters[f"base_model.model.{name}.lora_B.weight"] = b

    def reset(self) -> None:
        """The base policy: B is zero, A uniform in +-1/sqrt(inputs), the same for the same seed."""
        with torch.no_grad():
            for name, weight in self.masters.items():
                if ".lora_B." in name:
                    weight.zero_()
                    continue
                bound = 1.0 / math.sqrt(weight.shape[1])
                generator = torch.Generator().manual_seed(seeds.seed(self._seed, "adapter", 0, name))
                drawn = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
                weight.copy_(distributed.placed_like(drawn, weight))

    def write(self, folder: Path) -> None:
        """``folder/adapter`` in peft's format."""
        weights = distributed.gather_full(self.masters)
        if not weights:
            return
        target = folder / FOLDER
        target.mkdir(parents=True)
        save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
        facts = {**self._config.to_dict(), "inference_mode": True, "base_model_name_or_path": None}
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in facts.items()}
        (target / CONFIG).write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n")

    def leaves(self) -> list[Tensor]:
        """The tensors of which a loss has gradients."""
        return list(self.masters.values())

    def layer_names(self) -> list[str]:
        """The last parts of the names of the layers that an adapter is on, sorted."""
        return sorted({name.rpartition(".")[2] for name in self._layers})

    def publish(self) -> None:
        """Nothing to do: the trained weights are the live ones."""

    def merged(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """All weights of the network by their plain names, W + (alpha / r) B A, in a type or the base's."""
        weights = {
            name.replace(".base_layer.", "."): tensor.to(dtype or tensor.dtype)
            for name, tensor in self.network.state_dict().items()
            if ".lora_" not in name
        }
        with torch.no_grad():
            for name, layer in self._layers.items():
                base, a, b = layer.parts()
                moved = torch.addmm(base.float(), b, a, alpha=layer.scale())
                weights[f"{name}.weight"] = moved.to(dtype or base.dtype)
        return weights

    @torch.no_grad()
    def merge_loss(self) -> float | None:
        """The share of adapted weights, in evenly spread rows, that ``merged`` leaves as they were.

        Where weights are sharded, every rank calls this.
        """
        adapted = unchanged = 0
        for layer in self._layers.values():
            base, a, b = (distributed.full_tensor(part) for part in layer.parts())
            rows = torch.linspace(0, len(base) - 1, min(MEASURED_ROWS, len(base)), device=base.device).long()
            old, delta = base[rows], layer.scale() * (b[rows] @ a)
            adapted += int(delta.count_nonzero())
            unchanged += int((((old.float() + delta).to(old.dtype) == old) & (delta != 0)).sum())
        return unchanged / adapted if adapted else None

    @contextmanager
    def reference(self) -> Iterator[PreTrainedModel]:
        """The network without its adapter."""
        with self._peft.disable_adapter():
            yield self.network


class FusedLinear(PeftLinear):
    """peft's LoRA layer with one autograd function for base and adapter, in the base weights' type."""

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """W [out, in], A [r, in], B [out, r]."""
        layers = (self.base_layer, self.lora_A["default"], self.lora_B["default"])
        base, a, b = (cast(Tensor, layer.weight) for layer in layers)
        return base, a, b

    def scale(self) -> float:
        """alpha / r."""
        return float(self.scaling["default"])

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in] to [..., out]."""
        if self.disable_adapters or self.merged:
            out: Tensor = self.base_layer(x, *args, **kwargs)
            return out
        apply: Callable[..., Tensor] = _LoraProduct.apply
        packed = getattr(
            self.base_layer, "packed", None
        )  # in 4 bits: unpacked in each pass, not kept for one
        weight = self.base_layer.weight if packed is None else packed()
        adapter = (self.lora_A["default"].weight, self.lora_B["default"].weight)
        return apply(x, weight, *adapter, self.base_layer.bias, self.scale())


def _product(x: Tensor, y: Tensor) -> Tensor:
    """In float32; a GPU does not round to the inputs' type on the way."""
    if x.is_cuda and x.dtype != torch.float32:
        return torch.mm(x, y, out_dtype=torch.float32)
    return (x @ y).float()


def _widens(x: Tensor, width: int) -> bool:
    """Whether a GPU should append the adapter's inputs [T, r] to ``x``, for one product with both weights: it
    then copies ``x`` where it would read and write the wider result once more."""
    return x.is_cuda and width > 2 * x.shape[1]


class Packed(Protocol):
    """A weight that is held in few bits."""

    def unpacked(self) -> Tensor:
        """[out, in]."""


class _LoraProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, held: Tensor | Packed, a: Tensor, b: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        ctx.packed = None if isinstance(held, Tensor) else held
        weight = held if isinstance(held, Tensor) else held.unpacked()
        a, b = a.to(weight.dtype), b.to(weight.dtype)
        down = flat @ a.T
        ctx.save_for_backward(flat, weight if ctx.packed is None else None, a, b, down)
        ctx.scale, ctx.shape = scale, x.shape
        linear = torch.nn.functional.linear
        if _widens(flat, len(weight)):
            both = torch.cat((flat, scale * down), 1)
            return linear(both, torch.cat((weight, b), 1), bias).view(*x.shape[:-1], -1)
        return linear(flat, weight, bias).addmm_(down, b.T, alpha=scale).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        flat, weight, a, b, down = ctx.saved_tensors
        weight = weight if ctx.packed is None else ctx.packed.unpacked()
        grad = grad.reshape(-1, grad.shape[-1])
        back = (grad @ b).mul_(ctx.scale)
        to_x = None
        if ctx.needs_input_grad[0]:
            if _widens(grad, weight.shape[1]):
                to_x = torch.cat((grad, back), 1) @ torch.cat((weight, a))
            else:
                to_x = (grad @ weight).addmm_(back, a)
            to_x = to_x.view(ctx.shape)
        to_a = _product(back.T, flat)
        to_b = _product(grad.T, down).mul_(ctx.scale)
        return to_x, None, to_a, to_b, None, None
