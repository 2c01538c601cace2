"""Which engine ``auto`` is, and what is said where vLLM is missing."""

from __future__ import annotations

import importlib.util

import pytest

from params import BadInput
from tasks import engines


def test_auto_takes_vllm_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert engines.resolve("auto") == "vllm"
    assert engines.resolve("vllm") == "vllm"
    assert engines.resolve("transformers") == "transformers"


def test_without_vllm_auto_is_transformers_and_vllm_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert engines.resolve("auto") == "transformers"
    with pytest.raises(BadInput, match=r"engine\.name: vllm is not installed; .*pip install"):
        engines.resolve("vllm")
