"""A policy: a base model plus a LoRA adapter or full weights, and its log-probabilities of responses."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from params.schema import Params
from tasks.artefacts.artefact import MANIFEST, Artefact
from tasks.core.device import checkpoints, head_chunk, micro_batch
from tasks.core.segments import Ids, counts
from tasks.policy import (
    distributed,
    model_checks,
    packing,
    prefix_attention,
    rms_norm,
    rotary,
    swiglu,
    threads,
)
from tasks.policy.checkpointing import activation_bytes, checkpoint_layers
from tasks.policy.elsewhere import Elsewhere
from tasks.policy.folder import save_folder
from tasks.policy.hidden_states import batch_states
from tasks.policy.lm_head import HeadOutput, head
from tasks.policy.load import head_weight, load_model, load_tokenizer, stop_ids
from tasks.policy.weights import open_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """Per sampled token, responses laid end to end in the caller's order: T tokens, float32, on the CPU."""

    lengths: tuple[int, ...]
    """Sampled tokens of each response."""
    logp: Tensor
    """[T] log-probabilities in nats at the given temperature."""
    entropy: Tensor | None = None
    """[T] nats, where asked for."""
    ranks: Tensor | None = None
    """[T, k] the k largest probabilities, falling, where asked for."""
    others: Tensor | None = None
    """[T, n] log-probabilities of the other tokens that were asked for."""

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """``values`` [T, ...] cut into one tensor per response."""
        return torch.split(values, list(self.lengths))


class Policy:
    """Holds one base model and the weights of one policy at a time.

    ``network`` is the causal language model. No dropout.
    """

    def __init__(self, base: Path, params: Params, device: torch.device) -> None:
        self.base = base
        self.device = device
        self._params = params
        self.tokenizer = load_tokenizer(base, params)
        sharded = distributed.world_size() > 1
        host = torch.device("cpu") if sharded else device  # where the model is loaded, before it is sharded
        load = functools.partial(_load, base, params, device)
        self.network = load(host)
        self.stop_ids = stop_ids(self.network, self.tokenizer)
        sharing = model_checks.sharing(self.network, host)
        if sharing == "none":
            log.warning("%s cannot share prompts: one row per response", type(self.network).__name__)
        self.layout = packing.Layout(sharing != "none", sharing == "attention", _cost(self.network))
        self.weights = open_weights(params.update.adapter, self.network, load, self.tokenizer, params, device)
        self._held: str | None = None
        self._elsewhere = Elsewhere()
        self.thread_count = 1 if sharded else threads.thread_count(device)
        chosen, config = params.update.attention, self.network.config.get_text_config()
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        fastest = prefix_attention.fastest(device, self.network.dtype, head_size)
        self.attention = fastest if chosen == "auto" else chosen
        self.budget = micro_batch(params.update, params.model.context, device.type == "cuda")
        self._head_chunk = head_chunk(params.update, device.type == "cuda")
        if self._checkpoints():
            checkpoint_layers(self.network)

    def _checkpoints(self) -> bool:
        memory = math.inf
        if self.device.type == "cuda":
            memory = float(torch.cuda.get_device_properties(self.device).total_memory)
        activations = self.budget * activation_bytes(self.network)
        return checkpoints(self._params.update, activations, memory, self._params.engine)

    @classmethod
    def open(cls, base: Path, params: Params) -> Policy:
        """Load the folder ``base`` and hold the base policy; raises ``BadInput``."""
        policy = cls(base, params, _trainer_device(params))
        policy.restore(None)
        return policy

    def restore(self, folder: Path | None) -> None:
        """Hold the policy of this artefact's directory; ``None``: the base policy.

        Nothing is read when it is held already. Raises ``BadInput`` where the weights do not fit.
        """
        self._elsewhere.bring_back()
        name = _identity(folder)
        if name is not None and name == self._held:
            return
        self._held = None
        if folder is None:
            self.weights.reset()
        else:
            self.weights.read(folder)
        self._held = name

    def rest(self) -> None:
        """Keep the weights in the host's memory until ``restore`` is called next."""
        if self.device.type != "cpu":
            self._elsewhere.move(self.weights.tensors(), torch.device("cpu"))
            release_gpu()

    def stepped(self) -> None:
        """To be called after an optimiser step: put the masters into the model, a policy not on disk."""
        self._held = None
        self.weights.publish()

    def save(self, folder: Path) -> None:
        """Write ``folder/adapter`` (peft's format) or ``folder/weights`` (a Hugging Face folder, float32)."""
        self.weights.write(folder)

    def merged(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write a plain Hugging Face folder, weights merged, in a type or the base's."""
        save_folder(self.network, self.tokenizer, self.weights.merged(dtype), folder)

    def plan(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> list[list[packing.Row]]:
        """The rows of each micro-batch, of at most ``budget`` positions."""
        workers = max(self.thread_count, distributed.world_size())
        return packing.plan(prompts, responses, self.budget, self.layout, workers)

    def passes(self, network: PreTrainedModel | None = None) -> contextlib.AbstractContextManager[None]:
        """Every ``forward`` and its backward pass must run inside this block."""
        used = network or self.network
        return prefix_attention.use_prefix_attention(used) if self.layout.flat else contextlib.nullcontext()

    def forward(
        self,
        batch: packing.MicroBatch,
        temperature: float,
        *,
        entropy: bool = False,
        entropy_gradient: bool = False,
        ranks: int = 0,
        others: Tensor | None = None,
        network: PreTrainedModel | None = None,
    ) -> HeadOutput:
        """Score a micro-batch's t response tokens, in the order of ``batch.index``; inside ``passes``.

        ``others`` [t, n]: further token ids whose log-probabilities are wanted too.
        """
        network = network or self.network
        batch = batch.to(self.device)

        def scored() -> HeadOutput:
            hidden = batch_states(network, batch, self.attention)
            return head(
                hidden.flatten(0, 1).index_select(0, batch.predictor),
                head_weight(network),
                batch.target,
                temperature,
                self._head_chunk,
                entropy=entropy,
                entropy_gradient=entropy_gradient,
                ranks=ranks,
                others=None if others is None else others.to(self.device),
            )

        return distributed.forward(network, scored)

    @torch.no_grad()
    def score(
        self,
        prompts: Sequence[Ids],
        responses: Sequence[Ids],
        temperature: float,
        *,
        entropy: bool = False,
        ranks: int = 0,
        others: Tensor | None = None,
        reference: bool = False,
        network: PreTrainedModel | None = None,
    ) -> Scores:
        """Log-probabilities of the sampled tokens of ``responses[i]`` after ``prompts[i]``, and more.

        Those of the policy, or with ``reference`` of its base model, or of a ``network`` that is given.
        ``others`` [T, n]: further token ids at each token. Raises ``BadInput`` when a sequence exceeds the
        token budget.
        """
        lengths = tuple(counts(responses))
        starts = offsets(lengths)
        shapes: dict[str, tuple[int, ...]] = {"logp": ()}
        if entropy:
            shapes["entropy"] = ()
        if ranks:
            shapes["ranks"] = (ranks,)
        if others is not None:
            shapes["others"] = others.shape[1:]
        found = {name: torch.full((sum(lengths), *each), torch.nan) for name, each in shapes.items()}
        used = self.weights.reference() if reference else contextlib.nullcontext(network or self.network)
        with used as scorer, self.passes(scorer):

            def scored(chosen: list[packing.Row]) -> tuple[Tensor, HeadOutput]:
                batch = packing.build(chosen, responses, starts, self.layout.flat)
                tokens = None if others is None else others[batch.index]
                return batch.index, self.forward(
                    batch, temperature, entropy=entropy, ranks=ranks, others=tokens, network=scorer
                )

            plan = self.plan(prompts, responses)
            mine = distributed.assigned(len(plan))
            jobs = [functools.partial(scored, plan[each.micro_batch]) for each in mine]
            for each, (index, out) in zip(mine, threads.map_in_order(self.thread_count, jobs), strict=True):
                if not each.dummy:
                    for name, values in found.items():
                        values[index] = getattr(out, name).cpu()
        return Scores(lengths, **{name: distributed.reduce_known(x) for name, x in found.items()})

    def peak_memory(self) -> float:
        """Of this process since it began, in bytes; where the device is a GPU, of its memory."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        unit = 1 if sys.platform == "darwin" else 1024
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)

    def close(self) -> None:
        """Free the weights."""
        del self.weights, self.network
        release_gpu()


def _trainer_device(params: Params) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if not params.update.gpus:
        return torch.device("cuda")  # in a rank, its own
    torch.cuda.set_device(params.update.gpus[0])
    return torch.device("cuda", params.update.gpus[0])


def release_gpu() -> None:
    """Give the GPU's driver what this process has freed: another process can take nothing that is kept."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def offsets(lengths: Sequence[int]) -> list[int]:
    """Where each response begins when all are laid end to end."""
    return list(itertools.accumulate(lengths, initial=0))[:-1]


def _load(base: Path, params: Params, device: torch.device, place: torch.device) -> PreTrainedModel:
    """At ``place``, for passes on ``device``."""
    network = load_model(base, params, place)
    rms_norm.speed_up(network)
    if device.type == "cuda":
        swiglu.speed_up(network)
        rotary.speed_up(network)
    return network


def _cost(network: PreTrainedModel) -> packing.Cost:
    """The computation of attention and the head, relative to the linear layers' for one position."""
    head_size = head_weight(network).numel()
    linear = sum(w.numel() for w in network.parameters() if w.ndim == 2) - head_size
    packed: list[Any] = [each for each in network.modules() if hasattr(each, "packed")]
    linear += sum(layer.in_features * layer.out_features for layer in packed)  # in 4 bits, no parameters
    config = network.config.get_text_config()
    pair = 2.0 * config.num_hidden_layers * config.hidden_size
    return packing.Cost(pair / max(linear, 1), head_size / max(linear, 1))


def _identity(folder: Path | None) -> str | None:
    """The content digest of a policy's artefact; None where the folder has no manifest."""
    if folder is None:
        return "base"
    return Artefact.open(folder, check=False).digest if (folder / MANIFEST).is_file() else None
