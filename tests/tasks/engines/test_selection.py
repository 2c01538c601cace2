"""Which engine ``auto`` is, and what is said where vLLM is missing."""

from __future__ import annotations

import importlib.util

import pytest

from params.base import BadInput
from tasks.engines import selection


def test_auto_takes_vllm_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert selection.resolve("auto") == "vllm"
    assert selection.resolve("vllm") == "vllm"
    assert selection.resolve("transformers") == "transformers"


def test_without_vllm_auto_is_transformers_and_vllm_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert selection.resolve("auto") == "transformers"
    with pytest.raises(BadInput, match=r"engine\.name: vllm is not installed; .*pip install"):
        selection.resolve("vllm")
