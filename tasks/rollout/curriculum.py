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


def chosen(job: Job, training: pa.Table) -> Asked:
    """Those that the curriculum asks, in its order where it has one. Raises ``BadInput`` where those of the
    base model's rates do not fill a round."""
    settings = job.params.curriculum
    if settings is None:
        return Asked(training)
    base = {
        row["problem_id"]: row["right"] / row["judged"]
        for row in read_table(job.inputs["estimate"].file(TABLE)).to_pylist()
        if row["judged"]
    }
    if "rollout" in job.inputs:
        return _following(job, training, base, settings)
    names = training["problem_id"].to_pylist()
    fits = [name in base and _distance(base[name], settings) < 0 for name in names]
    kept, least = training.filter(pa.array(fits, pa.bool_())), job.params.rollout.problems_per_round
    if len(kept) < least:
        raise BadInput(
            f"curriculum: {len(kept)} of {len(training)} training problems have a pass rate above "
            f"{settings.above:g} and below {settings.below:g}; expected at least rollout.problems_per_round, "
            f"{least}"
        )
    told = {"problems_in_range": len(kept), "asked_out_of_range": 0} if settings.latest_rounds else None
    if settings.order == "random":
        return Asked(kept, figures=told)
    order = numpy_generator(job.params.seed, "rollout", 0, "curriculum").permutation(len(kept))
    falling = np.array([-base[name] for name in kept["problem_id"].to_pylist()])
    return Asked(kept.take(order[np.argsort(falling[order], kind="stable")]), in_order=True, figures=told)


def _following(job: Job, training: pa.Table, base: dict[str, float], settings: Curriculum) -> Asked:
    """Those whose rate is in the range now, asked least often first. Where they do not fill the round, those
    nearest to the range follow."""
    latest = _latest(job)
    names, size = training["problem_id"].to_pylist(), job.params.rollout.problems_per_round
    rates = [_rate(latest.get(name), base.get(name), job.round, settings) for name in names]
    distance = np.array([2.0 if rate is None else _distance(rate, settings) for rate in rates])
    asked = np.array([latest[name]["asked"] if name in latest else 0 for name in names])
    falling = np.array([-(rate or 0.0) if settings.order == "easy_first" else 0.0 for rate in rates])
    drawn = numpy_generator(job.params.seed, "rollout", job.round, "curriculum").permutation(len(names))
    order = np.lexsort((drawn, falling, asked, np.maximum(distance, 0.0), distance >= 0))
    inside = int((distance < 0).sum())
    told = {"problems_in_range": inside, "asked_out_of_range": max(0, size - inside)}
    return Asked(training.take(order[: max(inside, size)]), first=True, figures=told)


def updated(job: Job, answers: Sequence[pa.Table]) -> pa.Table:
    """``LATEST`` after this round's answers, those of groups that made room for others among them."""
    latest = _latest(job)
    for row in (row for table in answers for row in counted(table)):
        before = latest.get(row["problem_id"], {"judged": 0, "right": 0, "round": 0, "asked": 0})
        said = {**row, "round": job.round} if row["judged"] else {}
        latest[row["problem_id"]] = {**row, **before, **said, "asked": before["asked"] + 1}
    return pa.Table.from_pylist([latest[name] for name in sorted(latest)], schema=LATEST)


def _latest(job: Job) -> dict[str, dict[str, Any]]:
    if "rollout" not in job.inputs:
        return {}
    return {row["problem_id"]: row for row in read_table(job.inputs["rollout"].file(TABLE)).to_pylist()}


def _rate(
    latest: dict[str, Any] | None, base: float | None, round: int, settings: Curriculum
) -> float | None:
    if latest and latest["judged"] and round - latest["round"] <= settings.latest_rounds:
        return float(latest["right"] / latest["judged"])
    return base


def _distance(rate: float, settings: Curriculum) -> float:
    """How far a pass rate is from the range; below 0 inside it."""
    return max(settings.above - rate, rate - settings.below)
