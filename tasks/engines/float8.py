"""Rollouts in lower precision: a policy whose linear layers are rounded to float8.

A row of a layer's weights is divided by its absolute maximum / 448 and rounded to e4m3fn, whose largest
number is 448; the products are then taken in bfloat16. Embeddings, head, norms and biases are not rounded.

It makes the mismatch between sampler and trainer that float8 makes, on any machine, and nothing faster. The
real thing is a GPU's own kernels (vLLM's ``quantization="fp8_per_channel"``): the same rule for the weights,
but what goes into a layer is rounded too, and that is what saves time there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from params.schema import Params
from tasks.core.segments import Ids
from tasks.policy.folder import save_folder
from tasks.policy.load import linear_layers, load_model
from tasks.policy.policy import Policy, Scores

LARGEST = 448.0
"""Of e4m3fn."""


def rounded(weight: Tensor) -> Tensor:
    """[out, in] with each row rounded to float8 under its own scale, in bfloat16."""
    exact = weight.float()
    scale = exact.abs().amax(1, keepdim=True) / LARGEST
    scale = torch.where(scale > 0.0, scale, 1.0)
    return ((exact / scale).to(torch.float8_e4m3fn).float() * scale).bfloat16()


class Rounded:
    """A network of its own, in bfloat16, that holds a policy's merged weights rounded."""

    def __init__(self, policy: Policy, params: Params) -> None:
        model = params.model.model_copy(update={"dtype": "bfloat16"})
        narrow = params.model_copy(update={"model": model})
        self.network: PreTrainedModel = load_model(policy.base, narrow, policy.device)
        self._policy = policy
        self._held: str | None = None
        self._linear = {f"{name}.weight" for name in linear_layers(self.network)}

    def take(self, name: str) -> None:
        """Hold what the policy holds now, called ``name``; costs nothing when that is held already."""
        if name == self._held:
            return
        self._held = None
        weights = self._policy.weights.merged()
        self.network.load_state_dict(
            {key: rounded(w) if key in self._linear else w for key, w in weights.items()}
        )
        self._held = name

    def merged(self, folder: Path) -> None:
        """Write a plain Hugging Face folder."""
        save_folder(self.network, self._policy.tokenizer, dict(self.network.state_dict()), folder)

    def score(self, prompts: Sequence[Ids], responses: Sequence[Ids], temperature: float) -> Scores:
        """What the rounded policy gives each token of ``responses[i]`` after ``prompts[i]``."""
        return self._policy.score(prompts, responses, temperature, network=self.network)
