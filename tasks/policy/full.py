"""All weights of a model, trained: float32 masters that the optimiser moves, the model in its base type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from params.schema import Params
from tasks.policy import distributed
from tasks.policy.folder import WEIGHTS, save_folder
from tasks.policy.trained_weights import TrainedWeights

FOLDER = "weights"


def moves_gradients(device: torch.device) -> bool:
    """Whether each gradient goes to its master as soon as it is known: on a CPU micro-batches go side by side
    and are added in their order, and ranks add theirs first."""
    return device.type == "cuda" and distributed.world_size() == 1


class FullWeights(TrainedWeights):
    """The trained part of a policy of which every weight trains.

    Where the base type is not float32, or masters are in the host's memory (``update.offload``), gradients of
    the live weights add up in the masters'; ``publish`` rounds the masters into the model.
    """

    kind = "full"
    file = f"{FOLDER}/{WEIGHTS}"

    def __init__(
        self,
        network: PreTrainedModel,
        load: Callable[[torch.device], PreTrainedModel],
        tokenizer: Any,
        params: Params,
        device: torch.device,
    ) -> None:
        self.network = distributed.shard(network, device)
        self._load, self._device = load, device
        self._at_base = True
        self._tokenizer = tokenizer
        self._live: dict[str, nn.Parameter] = dict(sorted(network.named_parameters()))
        self.masters: dict[str, Tensor] = {}
        # Ranks train: what only hands weights over needs no masters on its GPU.
        ranks = params.update.ranks * params.update.machines
        trains_elsewhere = ranks > 1 and distributed.world_size() == 1 and device.type != "cpu"
        for name, weight in self._live.items():
            weight.requires_grad_(True)
            self.masters[name] = weight
            if params.update.offload or trains_elsewhere:
                self.masters[name] = _on_host(weight).requires_grad_(True)
            elif weight.dtype != torch.float32:
                self.masters[name] = weight.detach().float().requires_grad_(True)
        self._hooked = moves_gradients(device)
        for name, weight in self._live.items() if self._hooked else ():
            if self.masters[name] is not weight:
                weight.register_post_accumulate_grad_hook(self._moved_to(self.masters[name]))

    def reset(self) -> None:
        """The base weights."""
        if not self._at_base:
            base = self._load(torch.device("cpu"))
            self.take(dict(base.named_parameters()))
            self._at_base = True

    def write(self, folder: Path) -> None:
        """``folder/weights``: a Hugging Face folder that holds the masters."""
        weights = distributed.gather_full(self.masters)
        if weights:
            save_folder(self.network, self._tokenizer, weights, folder / FOLDER)

    def tensors(self) -> list[Tensor]:
        """Everything that is held, a base model that was loaded for a reference too."""
        base = vars(self).get("_base")
        return [*super().tensors(), *([] if base is None else base.parameters())]

    def leaves(self) -> list[Tensor]:
        """The tensors of which a loss has gradients."""
        return list(self._live.values())

    def gradients(self, loss: Tensor) -> Sequence[Tensor | None]:
        """Of a loss with respect to ``leaves``. On one GPU each is added to its master's as soon as it is
        known, so that they are never all held in the base type, and nothing is returned."""
        if not self._hooked:
            return super().gradients(loss)
        loss.backward()
        return ()

    @staticmethod
    def _moved_to(master: Tensor) -> Callable[[Tensor], None]:
        def move(weight: Tensor) -> None:
            gradient, weight.grad = weight.grad, None
            if gradient is not None:
                TrainedWeights.add_gradient(master, gradient)

        return move

    def publish(self) -> None:
        """Round the masters into the model."""
        self._at_base = False
        with torch.no_grad():
            for name, weight in self._live.items():
                if self.masters[name] is not weight:
                    weight.copy_(self.masters[name])

    def merged(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """All weights by name, in a type or the base's."""
        live = dict(self.network.state_dict())
        return live if dtype is None else {n: self.masters.get(n, t).to(dtype) for n, t in live.items()}

    @contextmanager
    def reference(self) -> Iterator[PreTrainedModel]:
        """The base model."""
        yield self._base

    @cached_property
    def _base(self) -> PreTrainedModel:
        """Loaded a second time when it is first asked for."""
        host = torch.device("cpu") if distributed.world_size() > 1 else self._device
        return distributed.shard(self._load(host), self._device)


def _on_host(weight: Tensor) -> Tensor:
    """A float32 copy, from where a GPU reads fast."""
    made = torch.empty(weight.shape, dtype=torch.float32, pin_memory=weight.is_cuda)
    return made.copy_(weight.detach())
