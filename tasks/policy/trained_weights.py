"""The trained part of a policy: what the ways of training weights have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from params.base import BadInput
from tasks.policy import distributed
from tasks.policy.load import read_tensors


class TrainedWeights(ABC):
    """float32 ``masters``, which the optimiser moves, by name."""

    network: PreTrainedModel
    masters: dict[str, Tensor]
    kind: Literal["lora", "full"]
    """The value of ``update.adapter``."""
    file: str
    """Where the weights lie in an artefact's directory."""
    fits: str = "this model"
    """What the weights of an artefact must fit."""

    @abstractmethod
    def reset(self) -> None:
        """Back to the base policy."""

    def read(self, folder: Path) -> None:
        """Take the weights of an artefact's directory; raises ``BadInput`` where they do not fit."""
        path = folder / self.file
        if not path.is_file():
            raise BadInput(
                f"{path}: missing; expected a policy that was trained with update.adapter {self.kind}"
            )
        stored = read_tensors(path)
        if {n: t.shape for n, t in stored.items()} != {n: t.shape for n, t in self.masters.items()}:
            raise BadInput(f"{path}: does not fit {self.fits}")
        self.take(stored)

    @torch.no_grad()
    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Masters of these values, by name, and the model with them."""
        for name, master in self.masters.items():
            master.copy_(distributed.placed_like(weights[name], master))
        self.publish()

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write the weights below ``folder``."""

    @abstractmethod
    def leaves(self) -> list[Tensor]:
        """The tensors of which a loss has gradients."""

    @abstractmethod
    def publish(self) -> None:
        """Put the masters into the model, after a step."""

    @abstractmethod
    def merged(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """All weights of the network by their plain names, in a type or the base's."""

    def merge_loss(self) -> float | None:
        """The share of trained weights whose change is lost where they are rounded into the base's type; None
        where that is not measured."""
        return None

    def tensors(self) -> list[Tensor]:
        """Everything that is held: the network's, and masters."""
        return [*self.network.parameters(), *self.network.buffers(), *self.masters.values()]

    def layer_names(self) -> list[str]:
        """The last parts of the names of the layers that an adapter is on, sorted; none for all weights."""
        return []

    @abstractmethod
    def reference(self) -> AbstractContextManager[PreTrainedModel]:
        """The base model, as long as the context is open."""

    def gradients(self, loss: Tensor) -> Sequence[Tensor | None]:
        """Of a loss with respect to ``leaves``."""
        return distributed.gradients(loss, self.leaves())

    def add_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Add what ``gradients`` returned to the masters'."""
        for master, gradient in zip(self.masters.values(), gradients, strict=True) if gradients else ():
            if gradient is not None:
                self.add_gradient(master, gradient)

    @staticmethod
    def add_gradient(master: Tensor, gradient: Tensor) -> None:
        """Add to a master's gradient, in its type and where it lies; the first becomes it."""
        if gradient.device != master.device:
            gradient = gradient.to(master.device)
        if master.grad is None:
            master.grad = gradient.to(master.dtype)
        else:
            master.grad.add_(gradient)
