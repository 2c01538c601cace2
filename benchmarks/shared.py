"""What the benchmarks share: a command line with ``--tiny``, what they start, and how they print.

Import it before torch, which reads ``GOMP_SPINCOUNT``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as the command line sets it
ROOT = Path(__file__).parents[1]
KEEP = ROOT / ".ostinato" / "bench"
THREADS = len(os.sched_getaffinity(0))
sys.path.insert(0, str(ROOT))

TINY = (
    "model.warm_start_steps=2",
    "engine.name=transformers",
    "rounds=2",
    "task.train_count=8",
    "task.held_out_count=4",
    "task.reward={name: similarity}",
    "rollout.problems_per_round=2",
    "rollout.samples_per_problem=4",
    "rollout.max_response_tokens=4",
    "evaluate.bootstrap_samples=20",
)
"""Settings of a nano run in seconds; untrained, its answers to one problem have different rewards."""


def parser(about: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the module's docstring as it stands."""
    return argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def arguments(parser: argparse.ArgumentParser, **tiny: object) -> argparse.Namespace:
    """What the user asked for; ``tiny``: the defaults of other options under ``--tiny``."""
    parser.add_argument("--tiny", action="store_true", help="the same code on something tiny, in seconds")
    if "--tiny" in sys.argv[1:]:
        parser.set_defaults(**tiny)
    return parser.parse_args()


def refuse(text: str) -> None:
    """End with exit code 2 and one line."""
    print(f"{Path(sys.argv[0]).stem}: {text}", file=sys.stderr)
    sys.exit(2)


def show(title: str, figures: Mapping[str, float]) -> None:
    print(title)
    for name, value in figures.items():
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        print(f"  {name.replace('_', ' '):34}{shown:>12}", flush=True)
