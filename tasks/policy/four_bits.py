"""Base weights in 4 bits: blocks of 64 numbers, each a level of NF4 times the block's largest magnitude.

QLoRA (Dettmers et al. 2023, arXiv 2305.14314, section 3), by bitsandbytes. The scales are float32 and not
rounded themselves, so that rounding what is rounded changes nothing: the model stage writes rounded weights
in the base type, which every engine takes, and the trainer packs the very same ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from params.schema import Params
from tasks.core import few_bits
from tasks.policy.load import linear_layers, read_tensors

BLOCK = 64
"""Numbers that share a scale."""
KIND = "nf4"


@dataclass(frozen=True)
class Packed:
    """A weight [out, in] in 4 bits."""

    numbers: Tensor
    """[out * in / 2] uint8: two levels each."""
    scales: Tensor
    """float32: the largest magnitude of each block."""
    shape: torch.Size
    dtype: torch.dtype

    @classmethod
    def of(cls, weight: Tensor) -> Packed:
        """The nearest levels."""
        numbers, state = _functional().quantize_4bit(
            weight.flatten(), blocksize=BLOCK, quant_type=KIND, compress_statistics=False
        )
        return cls(numbers, state.absmax, weight.shape, weight.dtype)

    def unpacked(self) -> Tensor:
        """[out, in] in the base type."""
        functional = _functional()
        state = functional.QuantState(
            self.scales,
            shape=torch.Size([self.shape.numel()]),  # flat: some kernels begin a block with each row
            code=functional.get_4bit_type(KIND, device=self.scales.device),
            blocksize=BLOCK,
            quant_type=KIND,
            dtype=self.dtype,
        )
        whole: Tensor = functional.dequantize_4bit(self.numbers, state)
        return whole.view(self.shape)


class FourBitLinear(nn.Linear):
    """A linear layer that unpacks its weights where it needs them; they do not train."""

    def __init__(self, layer: nn.Linear, device: torch.device) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        packed = Packed.of(layer.weight.detach().to(device))
        self._shape, self._dtype = packed.shape, packed.dtype
        self.register_buffer("numbers", packed.numbers, persistent=False)
        self.register_buffer("scales", packed.scales, persistent=False)

    def packed(self) -> Packed:
        """The weights as they are held."""
        numbers, scales = self.get_buffer("numbers"), self.get_buffer("scales")
        return Packed(numbers, scales, self._shape, self._dtype)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[out, in] in the base type, anew each time."""
        return self.packed().unpacked()


def pack(network: PreTrainedModel, device: torch.device) -> None:
    """Hold every linear layer but the head in 4 bits, on ``device``."""
    for name in linear_layers(network):
        place, _, own = name.rpartition(".")
        parent: Any = network.get_submodule(place)
        setattr(parent, own, FourBitLinear(getattr(parent, own), device))


def round_folder(folder: Path, params: Params) -> None:
    """Round the weights of a Hugging Face folder to what 4 bits hold, in the base type."""
    remote, dtype = params.model.trust_remote_code, getattr(torch, params.model.dtype)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=remote, local_files_only=True)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, trust_remote_code=remote)
    names = {f"{name}.weight" for name in linear_layers(network)}
    for file in sorted(folder.glob("*.safetensors")):
        tensors = read_tensors(file)
        save_file(dict(_rounded(tensors, names, dtype)), file, metadata={"format": "pt"})


def _rounded(tensors: dict[str, Tensor], names: set[str], dtype: torch.dtype) -> Iterable[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        yield name, Packed.of(tensor.to(dtype)).unpacked() if name in names else tensor


def _functional() -> Any:
    return few_bits.library("model.bits: 4").functional
