"""Every benchmark runs, as a user types it, on something tiny."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TRL = ROOT / "benchmarks" / "step_trl.py"
COMMANDS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text()]
RUNS = [
    *([path.name] for path in COMMANDS if path != TRL),
    ["update.py", "--grow", "vocabulary"],
]


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.parametrize("arguments", RUNS, ids=" ".join)
def test_a_tiny_benchmark_ends_with_a_line_of_figures(arguments: list[str]) -> None:
    name, *more = arguments
    done = _run(f"benchmarks/{name}", "--tiny", *more)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = list(_numbers(json.loads(done.stdout.splitlines()[-1])))
    assert any(figures)
    assert all(map(math.isfinite, figures))


def test_the_side_of_trl_says_in_one_line_that_trl_is_missing() -> None:
    without = "import runpy, sys; sys.modules['trl'] = None; sys.path.insert(0, '{}'); "
    without += "runpy.run_module('step_trl', run_name='__main__')"
    done = _run("-c", without.format(TRL.parent))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "TRL is not installed" in done.stderr
