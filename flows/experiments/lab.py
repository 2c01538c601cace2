"""The laboratory: a named study of methods, every arm with every seed, made by one command.

Each run is an ordinary one: it lies under ``runs/LAB-ARM-sSEED`` and shares the workspace's cache, so that
``ostinato status``, ``show`` and ``report`` know it, and so that arms share whatever does not depend on what
tells them apart: a seed's model, its problems, its first rollouts.

The runs go through worker processes that run the plain stage loop, without Prefect. A stage of nano is
short: Prefect adds some 90 ms to each, and some 10 s to each start. What it gives beyond that is here anyway:
artefacts are whole or absent, the cache is on disk, and each artefact is made under a lock of its own, so
that two workers that need the same one make it once. Arms are handed out one after the other with all their
seeds: what runs at the same time has different seeds, and hardly ever waits for such a lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.execution.runner import spelled
from flows.experiments.study import Work, make
from flows.stage_table.stages import stage_table
from params.base import BadInput, nearest
from params.lab import Lab, narrowed, read_lab, trials
from tasks.report.study.page import missing, write
from tasks.report.study.study import Outcome, Study, curves


@dataclass(frozen=True)
class Asked:
    """What a person asked for."""

    study: str
    """A preset or a file."""
    seeds: int | None
    arms: str | None
    """Names with commas between."""
    settings: Sequence[str]
    workers: int

    def command(self) -> str:
        """The command line that repeats it."""
        chosen = [*(["--seeds", str(self.seeds)] if self.seeds else [])]
        chosen += ["--arms", self.arms] if self.arms else []
        return spelled(["lab", self.study, *chosen, *(p for s in self.settings for p in ("--set", s))])


def run_lab(asked: Asked, as_json: bool) -> int:
    """Make a study and write ``labs/NAME``; the exit code is 1 where a run failed. Raises ``BadInput``."""
    name, lab = read_lab(asked.study)
    arms = [arm.strip() for arm in asked.arms.split(",")] if asked.arms else None
    lab = narrowed(lab, arms, asked.seeds)
    _check_metrics(name, lab)
    return make(
        Work(
            kind="lab",
            folder="labs",
            name=name,
            lab=lab,
            trials=trials(name, lab, asked.settings),
            command=asked.command(),
            workers=asked.workers,
            writer="tasks.report.study.page",
            write=_write,
        ),
        as_json,
    ).code()


def _write(lab: Lab, outcomes: Sequence[Outcome], facts: dict[str, Any], out: Path) -> list[str]:
    study = Study(lab, outcomes, curves(outcomes))
    write(study, facts, out)
    return missing(study)


def _check_metrics(name: str, lab: Lab) -> None:
    for metric in lab.wanted():
        stage = metric.partition(".")[0]
        if stage not in stage_table():
            raise BadInput(f"{name}: metrics.{metric}: no stage '{stage}'{nearest(stage, stage_table())}")
