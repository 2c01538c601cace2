"""The pages for those who come from TRL and verl, followed as they are written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.flows.conftest import ROOT, Workspace

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:py|json|jsonl|yaml))\n")
FASTER = ("--engine", "transformers", "--set", "model.warm_start_steps=40", "--set", "threads=1")
"""Settings that a page leaves to the machine, for a test."""


def followed(page: str, workspace: Workspace) -> int:
    """Write the files of a page and type its commands; the most lines that one of its blocks has."""
    longest = 0
    for kind, text in BLOCK.findall((ROOT / "docs" / page).read_text()):
        longest = max(longest, sum(bool(line.strip()) for line in text.splitlines()))
        if named := FILE.match(text):
            path = workspace.root / named[1]
            path.write_text(text[named.end() :] if kind == "json" else text)
        elif kind == "sh":
            for line in text.replace("\\\n", "").splitlines():
                _typed(shlex.split(line), workspace)
    return longest


def _typed(words: list[str], workspace: Workspace) -> None:
    if words[0] == "ostinato":
        workspace.call(*words[1:], *(FASTER if words[1] == "run" else ()))
    else:
        assert words[0] == "python"
        subprocess.run([sys.executable, *words[1:]], cwd=workspace.root, check=True, timeout=60)


def rollouts(workspace: Workspace, run: str) -> list[dict[str, object]]:
    path = workspace.root / "runs" / run / "round-02" / "rollout" / "rollouts.parquet"
    found: list[dict[str, object]] = pq.read_table(path).to_pylist()
    return found


@pytest.mark.long
@pytest.mark.ci
def test_from_trl(empty: Workspace) -> None:
    assert followed("from-trl.md", empty) <= 10
    for row in rollouts(empty, "from-trl"):
        parts = dict(row["rewards"])  # type: ignore[call-overload]
        assert set(parts) == {"right", "short"}
        assert row["total"] == pytest.approx(parts["right"] + 0.2 * parts["short"], abs=1e-6)
        assert row["reward"] == parts["right"]
    report = (empty.root / "runs" / "from-trl" / "report.html").read_text()
    assert "right.tried" in report
    assert "weighted sum" in report


@pytest.mark.long
@pytest.mark.ci
def test_from_verl(empty: Workspace) -> None:
    assert followed("from-verl.md", empty) <= 10
    rows = rollouts(empty, "from-verl")
    assert {row["reward"] for row in rows} <= {0.0, 1.0}
    assert all('"level": 1' in str(row["notes"]) for row in rows)


def test_every_page_names_files_that_are_there() -> None:
    for page in ("from-trl.md", "from-verl.md", "tasks/rewards.md", "tasks/custom-reward.md"):
        place = ROOT / "docs" / page
        for link in re.findall(r"\]\(([^)#:]+)\)", place.read_text()):
            assert (place.parent / link).is_file(), f"{page}: {link}"


def test_files_are_found_by_their_first_line() -> None:
    text = Path(ROOT / "docs" / "from-trl.md").read_text()
    assert [FILE.match(body)[1] for _, body in BLOCK.findall(text) if FILE.match(body)] == [  # type: ignore[index]
        *("my_rewards.py", "train.jsonl", "my_task.yaml"),
    ]
