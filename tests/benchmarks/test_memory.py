"""A 7B fits beside its engine on one card, and the plan says so: passes on tensors without values."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CARD = 85.5
"""GB of an 80 GB card."""
ENGINE = 0.4
"""Share of it that the engine takes."""


@pytest.mark.long
@pytest.mark.ci
def test_a_7b_with_checkpointing_trains_at_9216_positions_beside_its_engine() -> None:
    command = [sys.executable, "benchmarks/memory.py", "--models", "7b", "--positions", "9216"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=True)
    plain, sparing = json.loads(done.stdout.splitlines()[-1])["passes"]
    assert sparing["checkpointing"]
    assert sparing["peak_gb"] < CARD * (1 - ENGINE) < plain["peak_gb"]
    for passed in (plain, sparing):
        assert 0.85 < passed["plan_over_peak"] < 1.15
