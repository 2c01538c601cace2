"""Dynamic sampling: groups whose rewards are all equal make room for groups of further problems.

DAPO, arXiv 2503.14476, section 3.2. Further problems are drawn for one round alone: the order in which the
rounds go through the training set knows nothing of them, so one of them may come again in its own turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.artefacts.tables import sampled_lengths, training_reward
from tasks.core.seeds import numpy_generator
from tasks.rollout.sampling import Sampled


def varied(answers: pa.Table) -> list[int]:
    """The groups, in order, whose judged rewards are not all equal; of several, their weighted sums."""
    judged = answers.filter(answers["reward"].is_valid())
    place = judged.column_names.index("reward")
    judged = judged.set_column(place, judged.schema.field("reward"), training_reward(judged))
    extremes = judged.group_by("group").aggregate([("reward", "min"), ("reward", "max")])
    differ = pc.not_equal(extremes["reward_min"], extremes["reward_max"])
    return sorted(extremes.filter(differ)["group"].to_pylist())


def wanted(missing: int, found: int, sampled: int, most: int) -> int:
    """How many further problems to sample for ``missing`` varied groups, after ``found`` of ``sampled``.

    A whole batch would throw most of its tokens away where one group is missing; as many problems as are
    needed on average would end in one more call about every second time, and a call lasts as long as its
    longest response. So: the least n with n p - sqrt(n p (1 - p)) >= missing, one standard deviation more
    than the average, for p = (found + 1) / (sampled + 2); never more than ``most``.
    """
    if missing <= 0:
        return 0
    rate = (found + 1) / (sampled + 2)
    spread = math.sqrt(1.0 - rate)
    root = (spread + math.sqrt(spread * spread + 4.0 * missing)) / 2.0
    return min(most, math.ceil(root * root / rate))


def further(run_seed: int, round: int, attempt: int, count: int, used: Sequence[int], most: int) -> list[int]:
    """Positions of at most ``most`` of ``count`` problems that are not ``used``, for an attempt from 1 on."""
    order = numpy_generator(run_seed, "rollout", round, "refill", attempt).permutation(count)
    unused: list[int] = order[~np.isin(order, np.asarray(used, dtype=np.int64))].tolist()
    return unused[:most]


def filled(batches: Sequence[pa.Table], most: int) -> pa.Table:
    """The first ``most`` varied groups in the order of sampling, numbered from 0; where there is none, the
    last batch as it is."""
    kept: list[pa.Table] = []
    for answers in batches:
        for group in varied(answers)[: most - len(kept)]:
            rows = answers.filter(pc.equal(answers["group"], group))
            number = pa.array([len(kept)] * rows.num_rows, type=pa.int32())
            kept.append(rows.set_column(rows.column_names.index("group"), rows.schema.field("group"), number))
    return pa.concat_tables(kept) if kept else batches[-1]


def figures(batches: Sequence[Sampled]) -> dict[str, Any]:
    """What was sampled, before any group was dropped."""
    answers = pa.concat_tables([batch.answers for batch in batches])
    groups = sum(len(pc.unique(batch.answers["group"])) for batch in batches)
    found = sum(len(varied(batch.answers)) for batch in batches)
    return {
        "batches_sampled": len(batches),
        "groups_sampled": groups,
        "drop_rate": 1.0 - found / groups,
        "tokens_sampled": pc.sum(sampled_lengths(answers)).as_py(),
        "reward_mean_sampled": pc.mean(answers["reward"].cast(pa.float64())).as_py(),
        "unjudged_sampled": answers["reward"].null_count / answers.num_rows,
    }
