"""Verdicts of dear rewards by the content that they depend on: artefacts of a workspace.

Each artefact ``verdicts-*`` holds what was asked since the one before, in ``verdicts.parquet``: the key of
the content, the reward, and what else the verdict says. Nothing is ever changed in one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa

from params.reward import Rewards, several
from tasks.artefacts.artefact import Artefact, Damaged
from tasks.artefacts.role import Role
from tasks.artefacts.tables import read_table, write_table
from tasks.core.context import Shared
from tasks.core.stage import Job
from tasks.rewards.base import Verdict
from tasks.rewards.contract import find_reward

STAGE = "verdicts"
TABLE = "verdicts.parquet"
AT_ONCE = 256
"""Verdicts that are held before they are written: what an interruption loses at most."""
VERDICTS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # SHA-256 of all that was asked
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("notes", pa.string()),  # as JSON
    ]
)


class KeptVerdicts:
    """Those of one workspace. A failure is never kept."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._lock = Lock()
        self._fresh: dict[str, Verdict] = {}
        self._known: dict[str, Verdict] | None = None

    def find(self, key: str) -> Verdict | None:
        """The verdict that was given before, if there is one."""
        with self._lock:
            if self._known is None:
                self._known = _read(self._shared.artefacts)
            return self._known.get(key)

    def add(self, verdicts: Mapping[str, Verdict]) -> None:
        """Keep those that are no failures."""
        given = {key: verdict for key, verdict in verdicts.items() if verdict.reward is not None}
        with self._lock:
            if self._known is None:
                self._known = _read(self._shared.artefacts)
            self._known.update(given)
            self._fresh.update(given)
            full = len(self._fresh) >= AT_ONCE
        if full:
            self.write()

    def write(self) -> None:
        """Put what is new into an artefact."""
        with self._lock:
            fresh, self._fresh = self._fresh, {}
        if not fresh:
            return
        rows = [
            {
                "key": key,
                "reward": verdict.reward,
                "error": verdict.error,
                "notes": verdict.notes and json.dumps(verdict.notes),
            }
            for key, verdict in sorted(fresh.items())
        ]
        name = hashlib.sha256(json.dumps(rows).encode()).hexdigest()

        def fill(out: Path) -> dict[str, Any]:
            write_table(out / TABLE, pa.Table.from_pylist(rows, schema=VERDICTS))
            role = Role(kind="judge", label="verdicts")
            facts = {"role": role, "round": 0, "seed": 0, "params": {}, "inputs": {}, "code": {}}
            return {**facts, "versions": {}, "measured": {"verdicts": float(len(rows))}}

        self._shared.make(STAGE, name, fill)


def kept_verdicts(rewards: Rewards, job: Job) -> KeptVerdicts | None:
    """Where the verdicts of these rewards are kept; None where none of them is dear."""
    dear = any(find_reward(choice.name, "task.reward").content_keys for choice in several(rewards))
    shared = job.context.store
    return KeptVerdicts(shared) if dear and shared is not None else None


def _read(folder: Path) -> dict[str, Verdict]:
    """All verdicts that are kept there; a damaged artefact is none."""
    found: dict[str, Verdict] = {}
    for path in sorted(folder.glob(f"{STAGE}-*")):
        try:
            table = read_table(Artefact.open(path).file(TABLE))
        except (Damaged, FileNotFoundError):
            continue
        for row in table.to_pylist():
            notes = json.loads(row["notes"]) if row["notes"] else None
            found[row["key"]] = Verdict(row["reward"], row["error"], notes=notes)
    return found
