"""Answers that nobody could judge: a run learns nothing from them, and does not go on with many."""

from __future__ import annotations

import collections

import pyarrow.parquet as pq

from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table
from tasks.core.errors import StageFailure

MOST = 0.1
"""Share of a stage's answers that may be unjudged."""
SHOWN = 2
REASON_CHARACTERS = 240


def refuse_unjudged(sampled: Artefact, params: Params) -> None:
    """Raises ``StageFailure``, with what failed and how often, where more than ``MOST`` of the answers of a
    rollout or an evaluation have no reward."""
    stage, files = sampled.manifest.stage, sampled.manifest.files
    path = sampled.file("rollouts.parquet" if "rollouts.parquet" in files else "answers.parquet")
    total, missing = _counts(pq.read_metadata(path))
    if missing <= MOST * total:
        return
    answers = read_table(path)
    errors = answers.filter(answers["reward"].is_null())["reward_error"].to_pylist()
    reasons = collections.Counter(str(error)[:REASON_CHARACTERS] for error in errors).most_common()
    said = "; ".join(f"{reason} ({times} times)" for reason, times in reasons[:SHOWN])
    more = f"; {len(reasons) - SHOWN} other reasons" if len(reasons) > SHOWN else ""
    raise StageFailure(
        f"{stage} of round {sampled.manifest.round}: {missing} of {total} answers could not be judged, "
        f"expected at most a tenth: {said}{more}; mend task.reward or the right answers"
    )


def _counts(facts: pq.FileMetaData) -> tuple[int, int]:
    """Rows, and those without a reward: by the file's own statistics, since a run that finds hundreds of
    rounds in the cache reads none of their tables."""
    groups = [g for n in range(facts.num_row_groups) if (g := facts.row_group(n)).num_rows]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    rewards = [column for column in columns if column.path_in_schema == "reward"]
    return facts.num_rows, sum(column.statistics.null_count for column in rewards)
