"""A person's own file of problems, and the command that trains on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Refused = Callable[[list[str], str], None]
SMALL = [
    "task.train_count=4",
    "task.held_out_count=2",
    "rollout.problems_per_round=2",
    "engine.name=transformers",
]


def rows(answer: Any = "7", question: str = "how many?") -> list[dict[str, Any]]:
    """Six good rows, and one with this answer in line 4."""
    good = [{"question": f"{n} and {n}?", "answer": str(2 * n)} for n in range(6)]
    return [*good[:3], {"question": question, "answer": answer}, *good[3:]]


def written(folder: Path, content: list[dict[str, Any]]) -> Path:
    """The rows as a file."""
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def command(path: Path, *more: str) -> list[str]:
    """A small nano run on that file, and further settings."""
    options = [f"problems.path={path}", *SMALL, *more]
    return [
        "run",
        "--model",
        "nano",
        "--task",
        "jsonl",
        *(p for option in options for p in ("--set", option)),
    ]
