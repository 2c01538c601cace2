"""Which training problems a round asks: by pass rates of the base model, or of the policy.

Where it follows the policy, each rollout writes ``LATEST`` and reads that of the round before: nothing but
artefacts says which problems come next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from params.base import BadInput
from params.curriculum import Curriculum
from params.mixture import MAIN
from tasks.artefacts.tables import read_table
from tasks.core.seeds import numpy_generator
from tasks.core.stage import Job
from tasks.rollout.estimate import RATES, TABLE, counted

LATEST = pa.schema(
    [
        *RATES,  # of its latest group of which any answer could be judged
        pa.field("round", pa.int32(), nullable=False),  # of that group; 0: there was none
        pa.field("asked", pa.int32(), nullable=False),  # how often it was asked
    ]
)
"""A row for each problem that was asked so far, by name."""


@dataclass(frozen=True)
class Asked:
    """The training problems that a round may ask."""

    problems: pa.Table
    in_order: bool = False
    """Whether their order is the one to ask them in, an epoch after the other."""
    first: bool = False
    """Whether the round asks the first of them."""
    figures: dict[str, int] | None = None
    """What ``metrics.json`` says of the choice."""


def rates_file(task: str = MAIN) -> str:
    """Where ``LATEST`` of a task's problems stands in a rollout."""
    return TABLE if task == MAIN else f"rates-{task}.parquet"


def chosen(job: Job, training: pa.Table, size: int, asking: int, task: str = MAIN) -> Asked:
    """Those that the curriculum asks, in its order where it has one; ``asking`` of them this round, and
    ``size`` in a round at most. Raises ``BadInput`` where those of the base model's rates do not fill one."""
    settings = job.params.curriculum
    if settings is None:
        return Asked(training)
    base = {
        row["problem_id"]: row["right"] / row["judged"]
        for row in read_table(job.inputs["estimate"].file(TABLE)).to_pylist()
        if row["judged"]
    }
    latest = _latest(job, task)
    if latest is not None:
        return _following(job, training, base, latest, asking)
    names = training["problem_id"].to_pylist()
    fits = [name in base and _distance(base[name], settings) < 0 for name in names]
    kept = training.filter(pa.array(fits, pa.bool_()))
    if len(kept) < size:
        where = "curriculum" if task == MAIN else f"tasks.{task}.curriculum"
        least = (
            "its problems in a round" if job.params.tasks or task != MAIN else "rollout.problems_per_round"
        )
        raise BadInput(
            f"{where}: {len(kept)} of {len(training)} training problems have a pass rate above "
            f"{settings.above:g} and below {settings.below:g}; expected at least {least}, {size}"
        )
    told = {"problems_in_range": len(kept), "asked_out_of_range": 0} if settings.latest_rounds else None
    if settings.order == "random":
        return Asked(kept, figures=told)
    order = numpy_generator(job.params.seed, "rollout", 0, "curriculum").permutation(len(kept))
    falling = np.array([-base[name] for name in kept["problem_id"].to_pylist()])
    return Asked(kept.take(order[np.argsort(falling[order], kind="stable")]), in_order=True, figures=told)


def _following(
    job: Job, training: pa.Table, base: dict[str, float], latest: dict[str, dict[str, Any]], size: int
) -> Asked:
    """Those whose rate is in the range now, asked least often first. Where they do not fill the round, those
    nearest to the range follow."""
    settings, names = job.params.curriculum, training["problem_id"].to_pylist()
    assert settings is not None
    rates = [_rate(latest.get(name), base.get(name), job.round, settings) for name in names]
    distance = np.array([2.0 if rate is None else _distance(rate, settings) for rate in rates])
    asked = np.array([latest[name]["asked"] if name in latest else 0 for name in names])
    falling = np.array([-(rate or 0.0) if settings.order == "easy_first" else 0.0 for rate in rates])
    drawn = numpy_generator(job.params.seed, "rollout", job.round, "curriculum").permutation(len(names))
    order = np.lexsort((drawn, falling, asked, np.maximum(distance, 0.0), distance >= 0))
    inside = int((distance < 0).sum())
    told = {"problems_in_range": inside, "asked_out_of_range": max(0, size - inside)}
    return Asked(training.take(order[: max(inside, size)]), first=True, figures=told)


def updated(job: Job, answers: Sequence[pa.Table], task: str = MAIN) -> pa.Table:
    """``LATEST`` after this round's answers to a task, those of groups that made room for others among
    them."""
    latest = _latest(job, task) or {}
    for row in (row for table in answers for row in counted(table)):
        before = latest.get(row["problem_id"], {"judged": 0, "right": 0, "round": 0, "asked": 0})
        said = {**row, "round": job.round} if row["judged"] else {}
        latest[row["problem_id"]] = {**row, **before, **said, "asked": before["asked"] + 1}
    return pa.Table.from_pylist([latest[name] for name in sorted(latest)], schema=LATEST)


def _latest(job: Job, task: str) -> dict[str, dict[str, Any]] | None:
    """By problem, as the round before left them; None where there is none, or the policy is not followed."""
    settings = job.params.curriculum
    if "rollout" not in job.inputs or settings is None or not settings.latest_rounds:
        return None
    rows = read_table(job.inputs["rollout"].file(rates_file(task))).to_pylist()
    return {row["problem_id"]: row for row in rows}


def _rate(
    latest: dict[str, Any] | None, base: float | None, round: int, settings: Curriculum
) -> float | None:
    if latest and latest["judged"] and round - latest["round"] <= settings.latest_rounds:
        return float(latest["right"] / latest["judged"])
    return base


def _distance(rate: float, settings: Curriculum) -> float:
    """How far a pass rate is from the range; below 0 inside it."""
    return max(settings.above - rate, rate - settings.below)
