"""A policy: a base model plus a LoRA adapter or full weights, and what it says of responses."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from params import Params
from tasks.artefact import MANIFEST, Artefact
from tasks.policy import check, rows
from tasks.policy.adapter import AdapterWeights
from tasks.policy.attention import for_training
from tasks.policy.full import FullWeights, save_folder
from tasks.policy.head import HeadOutput, head
from tasks.policy.load import hidden_states, load_model, load_tokenizer, stop_ids

log = logging.getLogger(__name__)

CPU_CHUNK = 128
"""Positions whose logits a CPU takes at once; more fall out of its caches and cost half as much again."""


@dataclass(frozen=True)
class Scores:
    """Per response token, responses laid end to end in the caller's order: T tokens, float32, on the CPU."""

    logp: Tensor
    """[T] log-probabilities in nats at the given temperature."""
    entropy: Tensor | None
    """[T] nats, where asked for."""
    ranks: Tensor | None
    """[T, k] the k largest probabilities, falling, where asked for."""
    lengths: tuple[int, ...]
    """Tokens of each response."""

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """``values`` [T, ...] cut into one tensor a response."""
        return values.split(list(self.lengths))


class Policy:
    """Holds one base model and the weights of one policy at a time.

    ``model`` is what transformers or peft made, ``network`` the causal language model inside it. No dropout.
    """

    def __init__(self, base: Path, params: Params, device: torch.device) -> None:
        self.base = base
        self.device = device
        self._params = params
        self.tokenizer = load_tokenizer(base, params)
        load: Callable[[], PreTrainedModel] = functools.partial(load_model, base, params, device)
        self.network = load()
        self.stop_ids = stop_ids(self.network, self.tokenizer)
        self.shares_prompts = check.shares_prompts(self.network, device)
        if not self.shares_prompts:
            log.warning("%s cannot share prompts: every response gets a row", type(self.network).__name__)
        self.weights: AdapterWeights | FullWeights
        if params.update.adapter == "lora":
            self.weights = AdapterWeights(self.network, params)
        else:
            self.weights = FullWeights(self.network, load, self.tokenizer)
        self._held: str | None = None
        chunk = params.update.head_chunk
        self._chunk = min(chunk, CPU_CHUNK) if device.type == "cpu" else chunk

    @classmethod
    def open(cls, base: Path, params: Params) -> Policy:
        """Load the folder ``base`` and hold the base policy; raises ``BadInput``."""
        policy = cls(base, params, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        policy.restore(None)
        return policy

    @property
    def model(self) -> Any:
        """The peft model, or the transformers model where all weights train."""
        return self.weights.model

    def restore(self, folder: Path | None) -> None:
        """Hold the policy of this artefact's directory; ``None``: the base policy.

        Costs nothing when it is held already. Raises ``BadInput`` where the weights do not fit.
        """
        name = _identity(folder)
        if name is not None and name == self._held:
            return
        self._held = None
        if folder is None:
            self.weights.reset()
        else:
            self.weights.read(folder)
        self._held = name

    def stepped(self) -> None:
        """The optimiser moved the masters: put them into the model and forget which policy this was."""
        self._held = None
        self.weights.publish()

    def save(self, folder: Path) -> None:
        """Write ``folder/adapter`` (peft's format) or ``folder/weights`` (a Hugging Face folder, float32)."""
        self.weights.write(folder)

    def merged(self, folder: Path) -> None:
        """Write a plain Hugging Face folder, weights merged, in the base type; the live model stays."""
        save_folder(self.network, self.tokenizer, self.weights.merged(), folder)

    def plan(self, prompts: Sequence[rows.Ids], responses: Sequence[rows.Ids]) -> list[list[rows.Row]]:
        """How these responses lie in micro-batches under ``update.tokens_per_micro_batch``."""
        budget = self._params.update.tokens_per_micro_batch
        balance = 6.0 * self.network.config.get_text_config().hidden_size
        return rows.plan(prompts, responses, budget, self.shares_prompts, balance)

    def forward(
        self,
        batch: rows.MicroBatch,
        temperature: float,
        *,
        entropy: bool = False,
        entropy_gradient: bool = False,
        ranks: int = 0,
        network: PreTrainedModel | None = None,
    ) -> HeadOutput:
        """Score a micro-batch's t response tokens, in the order of ``batch.index``; on its device."""
        network = network or self.network
        batch = batch.to(self.device)
        with for_training(network, self.device):
            states = hidden_states(network, **_inputs(batch, network.dtype))
        return head(
            states.flatten(0, 1).index_select(0, batch.at),
            network.get_output_embeddings().weight,
            batch.target,
            temperature,
            self._chunk,
            entropy=entropy,
            entropy_gradient=entropy_gradient,
            ranks=ranks,
        )

    @torch.no_grad()
    def score(
        self,
        prompts: Sequence[rows.Ids],
        responses: Sequence[rows.Ids],
        temperature: float,
        *,
        entropy: bool = False,
        ranks: int = 0,
        reference: bool = False,
    ) -> Scores:
        """What the policy, or with ``reference`` its base model, gives each token of ``responses[i]`` after
        ``prompts[i]``; raises ``BadInput`` when a sequence exceeds the token budget."""
        lengths = tuple(len(response) for response in responses)
        starts = offsets(lengths)
        logp = torch.empty(sum(lengths))
        spread = torch.empty(sum(lengths)) if entropy else None
        top = torch.empty(sum(lengths), ranks) if ranks else None
        with self.weights.reference() if reference else contextlib.nullcontext(self.network) as network:
            for chosen in self.plan(prompts, responses):
                batch = rows.build(chosen, responses, starts)
                out = self.forward(batch, temperature, entropy=entropy, ranks=ranks, network=network)
                logp[batch.index] = out.logp.cpu()
                if spread is not None and out.entropy is not None:
                    spread[batch.index] = out.entropy.cpu()
                if top is not None and out.ranks is not None:
                    top[batch.index] = out.ranks.cpu()
        return Scores(logp, spread, top, lengths)

    def close(self) -> None:
        """Free the weights."""
        del self.weights, self.network
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def offsets(lengths: Sequence[int]) -> list[int]:
    """Where each response begins when all are laid end to end."""
    return list(itertools.accumulate(lengths, initial=0))[:-1]


def _inputs(batch: rows.MicroBatch, dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's arguments. An additive mask in the model's type is converted once, not in every layer."""
    inputs = {"input_ids": batch.input_ids}
    if batch.mask is not None:
        inputs["position_ids"] = batch.position_ids
        shut = torch.zeros(batch.mask.shape, dtype=dtype, device=batch.mask.device)
        inputs["attention_mask"] = shut.masked_fill_(~batch.mask, -torch.inf)
    return inputs


def _identity(folder: Path | None) -> str | None:
    """What a policy is by content; None where that is not known."""
    if folder is None:
        return "base"
    return Artefact.open(folder, check=False).digest if (folder / MANIFEST).is_file() else None
