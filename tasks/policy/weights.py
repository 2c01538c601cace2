"""Which weights of a policy train: found by ``update.adapter``, and imported only where they are chosen."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch and transformers, which whoever only asks for a module's name need not wait for
    from tasks.policy.trained_weights import TrainedWeights

WEIGHTS = {"lora": "tasks.policy.adapter:AdapterWeights", "full": "tasks.policy.full:FullWeights"}
"""``module:class`` by the value of ``update.adapter``."""


def open_weights(adapter: str, *arguments: Any) -> TrainedWeights:
    """The trained part of a policy, made from ``(network, load, tokenizer, params, device)``."""
    module, _, name = WEIGHTS[adapter].partition(":")
    made: TrainedWeights = getattr(importlib.import_module(module), name)(*arguments)
    return made
