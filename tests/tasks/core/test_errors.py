"""Memory that runs out in a stage ends in one line that says what was asked for and what helps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from params.engine import Engine
from tasks.artefacts.artefact import Artefact
from tasks.core.context import Context
from tasks.core.errors import StageFailure, memory_errors
from tasks.engines import cascade
from tasks.engines.base import Request, Sampling
from tasks.engines.in_process import InProcess
from tasks.policy.policy import Policy
from tests.tasks.rollout_rows import parameters

TOO_MUCH = 2**55


@pytest.mark.parametrize(
    ("allocate", "asked"),
    [
        (lambda: torch.empty(TOO_MUCH, dtype=torch.uint8), f"asked for {TOO_MUCH} bytes"),
        (lambda: np.empty(TOO_MUCH, dtype=np.uint8), "asked for 32.0 PiB"),
        (lambda: bytearray(TOO_MUCH), "out of memory; "),
    ],
)
def test_memory_of_the_machine(allocate: object, asked: str) -> None:
    with pytest.raises(StageFailure) as told, memory_errors("round-01/update"):
        allocate()  # type: ignore[operator]
    assert str(told.value).startswith("round-01/update: out of memory")
    assert asked in str(told.value)
    assert "update.tokens_per_micro_batch or update.head_chunk" in str(told.value)


def test_memory_of_a_gpu() -> None:
    """The text is torch's own."""
    text = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.18 GiB"
    said = r"update: out of GPU memory \(asked for 20\.00 GiB\)"
    with pytest.raises(StageFailure, match=said), memory_errors("update"):
        raise torch.OutOfMemoryError(text)


def test_what_samples_has_settings_of_its_own(tiny_model: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade, "FIRST_TOKENS", 2**40)
    params = parameters(context=64).model_copy(update={"engine": Engine(kv_cache_gib=2**30)})
    with Context(Path()) as context:
        policy = context.keep("policy", lambda: Policy.open(tiny_model.path, params))
        with (
            pytest.raises(StageFailure, match=r"engine\.kv_cache_gib or engine\.max_sequences"),
            memory_errors("rollout"),
        ):
            InProcess(policy, params).generate([Request((1, 2), 0)], Sampling(1.0, 2**40, (2,)))


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_errors("update"):
        raise RuntimeError("shapes do not match")
