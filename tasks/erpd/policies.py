"""The policies that a round's signals compare: which snapshot of a teacher, which reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from params.distil import Signal, older_input
from tasks.core.stage import Job
from tasks.erpd.teach import UNLEARNED, snapshot, snapshots
from tasks.erpd.training import base_of


def teacher_step(job: Job, signal: Signal, name: str) -> int:
    """The step of the snapshot of a teacher that the signal is of."""
    kept = snapshots(job.inputs["teach"], name)
    if signal.step == "best" and len(kept) > 1:
        best: int = measures(job)["teachers"][name]["best"]
        return best
    return kept[-1] if isinstance(signal.step, str) else signal.step


def teachers_of(job: Job, signal: Signal) -> dict[str, Path]:
    """Where the signal's teachers lie, by name. Raises ``BadInput`` for a step that was not kept."""
    taught = job.inputs["teach"]
    return {name: snapshot(taught, name, teacher_step(job, signal, name)) for name in signal.names()}


def reference_of(job: Job, signal: Signal, reference: str) -> Path | None:
    """Where the policy ``base``, ``unlearned``, ``older`` or ``student`` lies; at first the student is the
    base."""
    if reference == UNLEARNED:
        assert job.params.distil is not None
        return snapshot(job.inputs["unlearn"], UNLEARNED, job.params.distil.unlearned_step)
    if reference == "older":
        older = job.inputs.get(older_input(signal.rounds_back))
        return older.path if older else None
    return base_of(job)


def measures(job: Job) -> Mapping[str, Any]:
    """What ``validate`` measured."""
    found: Mapping[str, Any] = job.inputs["validate"].json("metrics.json")
    return found
