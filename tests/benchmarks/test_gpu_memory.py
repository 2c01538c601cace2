"""What one H100 was measured to hold, and what the plan says of the same work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from params.load import compose

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu_memory
import random_models

MEASURED = {
    ("1.5b", "lora-kept", 9216): 27.55,
    ("1.5b", "qlora", 9216): 7.46,
    ("1.5b", "full", 9216): 34.70,
    ("1.5b", "full-8bit", 9216): 25.48,
    ("1.5b", "full-offload", 9216): 9.98,
    ("7b", "lora", 9216): 23.08,
    ("7b", "qlora", 9216): 13.67,
    ("7b", "lora", 32768): 30.32,
    ("7b", "qlora", 32768): 20.90,
}
"""GB, by ``benchmarks/gpu_memory.py`` on an H100 of 80 GB; docs/performance.md."""


@pytest.mark.parametrize(("model", "way", "positions"), MEASURED)
def test_the_plan_is_right_within_a_tenth(model: str, way: str, positions: int) -> None:
    settings = ["model.dtype=bfloat16", *gpu_memory.settings(way, positions)]
    params = compose("nano", "sums", "grpo", settings)
    work = random_models.Work(positions // 9, positions - positions // 9, 1)
    planned = gpu_memory.planned(params, random_models.shape(model), work)
    assert planned == pytest.approx(MEASURED[model, way, positions], rel=0.1)
