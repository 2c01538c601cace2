"""All weights of a model, trained: float32 masters that the optimiser moves, the model in its base type."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from params.base import BadInput
from tasks.policy import distributed
from tasks.policy.adapter import add_gradients
from tasks.policy.load import read_tensors

FOLDER = "weights"
WEIGHTS = "model.safetensors"


class FullWeights:
    """The trained part of a policy of which every weight trains.

    Where the base type is not float32, gradients of the live weights add up in the masters'; ``publish``
    rounds the masters into the model.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        load: Callable[[], PreTrainedModel],
        tokenizer: Any,
        device: torch.device,
    ) -> None:
        self.model: Any = network
        self.network = distributed.shard(network, device)
        self._load = lambda: distributed.shard(load(), device)
        self._base: PreTrainedModel | None = None
        self._tokenizer = tokenizer
        self._live: dict[str, nn.Parameter] = dict(sorted(network.named_parameters()))
        self.masters: dict[str, Tensor] = {}
        for name, weight in self._live.items():
            weight.requires_grad_(True)
            self.masters[name] = weight
            if weight.dtype != torch.float32:
                self.masters[name] = weight.detach().float().requires_grad_(True)

    def reset(self) -> None:
        """The base weights."""
        self._take(dict(self._reference().named_parameters()))

    def read(self, folder: Path) -> None:
        """Take the weights of ``folder/weights``; raises ``BadInput`` where they do not fit."""
        path = folder / FOLDER / WEIGHTS
        if not path.is_file():
            raise BadInput(f"{path}: missing; expected a policy that was trained with update.adapter full")
        stored = read_tensors(path)
        if {n: t.shape for n, t in stored.items()} != {n: t.shape for n, t in self._live.items()}:
            raise BadInput(f"{path}: does not fit this model")
        self._take(stored)

    def write(self, folder: Path) -> None:
        """``folder/weights``: a Hugging Face folder that holds the masters."""
        weights = distributed.gathered(self.masters)
        if weights:
            save_folder(self.network, self._tokenizer, weights, folder / FOLDER)

    def leaves(self) -> list[Tensor]:
        """The tensors of which a loss has gradients."""
        return list(self._live.values())

    def gradients(self, loss: Tensor) -> Sequence[Tensor | None]:
        """Of a loss with respect to ``leaves``."""
        return distributed.gradients(loss, self.leaves())

    def add_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Add gradients of ``leaves`` to the masters'."""
        add_gradients(self.masters.values(), gradients)

    def publish(self) -> None:
        """Round the masters into the model."""
        with torch.no_grad():
            for name, weight in self._live.items():
                if self.masters[name] is not weight:
                    weight.copy_(self.masters[name])

    def merged(self) -> dict[str, Tensor]:
        """All weights by name, in the base type."""
        return dict(self.network.state_dict())

    @contextmanager
    def reference(self) -> Iterator[PreTrainedModel]:
        """The base model, loaded a second time when it is first asked for."""
        yield self._reference()

    def _reference(self) -> PreTrainedModel:
        if self._base is None:
            self._base = self._load()
        return self._base

    def _take(self, weights: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(distributed.like(weights[name], master))
        self.publish()


def save_folder(network: PreTrainedModel, tokenizer: Any, weights: dict[str, Tensor], folder: Path) -> None:
    """A plain Hugging Face folder of ``weights`` in the type that they have."""
    folder.mkdir(parents=True, exist_ok=True)
    tied = set(getattr(network, "all_tied_weights_keys", None) or ())
    kept = {n: t.detach().cpu().contiguous() for n, t in sorted(weights.items()) if n not in tied}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    config = copy.deepcopy(network.config)
    config.dtype = next(iter(kept.values())).dtype
    config.architectures = [type(network).__name__]
    config.save_pretrained(folder)
    if network.generation_config is not None:
        network.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
