"""Comparisons and studies as Prefect flows: what ``ostinato compare`` and ``lab`` do, for deployments.

Flow runs on several workers, each with a workspace of its own, split one comparison where ``store.share`` is
set: see ``docs/deploy.md``.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from pydantic import Field

from flows.experiments.comparison import Work, make, work_of_methods, work_of_study
from flows.experiments.display import Display
from flows.experiments.worker_pool import ELSEWHERE, Event, Run
from flows.prefect_hooks import gpu_slot, tell_failure
from params.compare_options import CompareOptions
from tasks.core.errors import StageFailure


class Log(Display):
    """Tells Prefect's log of runs that end, and of notes."""

    def __init__(self) -> None:
        self._logger = get_run_logger()

    def tell(self, run: Run, event: Event) -> None:
        """One line for each."""
        if event["event"] == "end" and event["outcome"] != ELSEWHERE:
            said = (run.trial.name, run.outcome, run.made, run.cached)
            self._logger.info("%s %s: %d stages made, %d cached", *said)
        elif event["event"] == "note":
            self._logger.warning("%s: %s", run.trial.name, event["text"])

    def conclude(self, place: Path) -> None:
        """The flow does it."""


@flow(name="compare", flow_run_name="{name}", on_failure=[tell_failure], on_crashed=[tell_failure])
def compare(
    methods: Annotated[list[str], Field(min_length=1)],
    seeds: Annotated[int, Field(ge=1)] = 3,
    task: str = "sums",
    model: str = "nano",
    baseline: str | None = None,
    budget: str | None = None,
    settings: list[str] | None = None,
    name: str | None = None,
    workers: Annotated[int, Field(ge=1)] = 2,
) -> dict[str, Any]:
    """Methods × seeds at equal budget. Run it again and it resumes, or finishes from cache.

    The parameters are the options of ``ostinato compare``. Leaves a link to the page and the table of effects
    among the run's artifacts, and returns the verdict. Raises ``BadInput`` before anything runs,
    ``StageFailure`` where a run failed.
    """
    options = CompareOptions(methods, seeds, task, model, baseline, budget, settings or [], name, workers)
    return _made(work_of_methods(options))


@flow(name="lab", flow_run_name="{study}", on_failure=[tell_failure], on_crashed=[tell_failure])
def lab(
    study: str,
    seeds: Annotated[int | None, Field(ge=1)] = None,
    arms: list[str] | None = None,
    settings: list[str] | None = None,
    workers: Annotated[int, Field(ge=1)] = 2,
) -> dict[str, Any]:
    """A comparison that is kept in a file, of ``params/labs`` or by its path; otherwise as ``compare``.

    The parameters are those of ``ostinato lab``.
    """
    return _made(work_of_study(study, seeds, ",".join(arms) if arms else None, settings or [], workers))


def _made(work: Work) -> dict[str, Any]:
    """The comparison, told to Prefect; what the flow returns."""
    with gpu_slot():
        made = make(work, shown=Log())
    if made.place is None:
        raise StageFailure("no run of the comparison came to its end")
    summary = json.loads((made.place / "summary.json").read_text())
    page = made.place / "report.html"
    key = "".join(c if c.isalnum() else "-" for c in summary["name"])
    when = datetime.now(UTC).isoformat(timespec="minutes")
    create_link_artifact(
        f"file://{page}", "Comparison", key=f"{key}-comparison", description=f"Written {when}"
    )
    effects = made.place / "effects.md"
    table = effects.read_text() if effects.is_file() else ""
    create_markdown_artifact(f"**{summary['verdict']}**\n\n{table}", key=f"{key}-effects")
    if made.code():
        raise StageFailure(f"not every run came to its end; {page} holds those that did")
    told = ("name", "verdict", "evidence", "stages", "effects")
    return {"report": str(page), **{part: summary[part] for part in told}}
