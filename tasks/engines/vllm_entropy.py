"""The entropy at every position that vLLM samples, by a logits processor that only looks.

vLLM tells of the likeliest words; an exact entropy needs all of them, which only the sampler sees. The
processor sits behind the temperature, in the worker's own process (``vllm_worker``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

NAME = "entropy"
"""Of the number of the request among ``SamplingParams.extra_args``."""
SLICE_BYTES = 1 << 20
"""Logits that a CPU passes over while they stay in its caches."""

_kept: dict[int, list[float]] = {}


class EntropyProcessor(LogitsProcessor):
    """Notes the entropy of the distribution that each token of a numbered request is drawn from."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, tuple[int, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """So that it comes behind the temperature."""
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Which row is whose: the request's number, and the tokens that it has so far."""
        process_dict_updates(self._rows, batch_update, _numbered)

    def apply(self, logits: Tensor) -> Tensor:
        """Unchanged. A position that is sampled again, after a preemption, replaces what was noted."""
        if self._rows:
            spread = entropies(logits).tolist()
            for row, (number, tokens) in self._rows.items():
                noted = _kept.setdefault(number, [])
                noted[len(tokens) :] = [spread[row]]
        return logits


def take(number: int) -> list[float]:
    """What was noted of a request, in nats; it is forgotten."""
    return _kept.pop(number, [])


def entropies(logits: Tensor) -> Tensor:
    """[n] nats of softmax(``logits`` [n, V] float32): log sum e^z - sum p z, with max z - log max p for the
    first."""
    step = max(SLICE_BYTES // (4 * logits.shape[1]), 1) if logits.device.type == "cpu" else len(logits)
    found = logits.new_empty(len(logits))
    for first in range(0, len(logits), max(step, 1)):
        z = logits[first : first + step]
        p = z.softmax(-1)
        found[first : first + step] = z.amax(-1) - p.amax(-1).log() - torch.linalg.vecdot(p, z)
    return found


def _numbered(params: Any, prompt: list[int] | None, tokens: list[int]) -> tuple[int, list[int]] | None:
    number = (params.extra_args or {}).get(NAME)
    return None if number is None else (number, tokens)
