"""Accuracy and other scores of a policy from a table of its judged answers: ``scores.json``."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from algorithms.correct import CORRECT
from algorithms.diagnostics import pass_at_k
from params.schema import Params
from tasks.artefacts.tables import ROLLOUTS, sampled_lengths, truncated
from tasks.core.seeds import numpy_generator
from tasks.rollout.components import components
from tasks.stats.intervals import mean_interval

REASON_CHARACTERS = 80
ANSWERS = pa.schema(
    [
        *ROLLOUTS,
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),  # the gold answer
        pa.field("level", pa.int32(), nullable=False),
        pa.field(
            "response", pa.string(), nullable=False
        ),  # without special tokens; of several turns a transcript
        pa.field("greedy", pa.bool_(), nullable=False),  # one per problem; others are sampled
    ]
)


@dataclass(frozen=True)
class Counts:
    """Judged answers and right ones, one value per problem that has a judged answer."""

    problem: NDArray[np.object_]
    level: NDArray[np.int64]
    judged: NDArray[np.int64]
    right: NDArray[np.int64]

    @classmethod
    def of(cls, answers: pa.Table) -> Counts:
        """Count the answers whose reward is not null; one is right when ``algorithms.correct`` says so."""
        judged = answers.filter(pc.is_valid(answers["reward"]))
        right = pc.cast(pc.greater_equal(judged["reward"], CORRECT), pa.int64())
        grouped = (
            judged.select(["problem_id", "level"])
            .append_column("right", right)
            .group_by("problem_id", use_threads=False)
            .aggregate([("level", "min"), ("right", "count"), ("right", "sum")])
        )
        columns = ("problem_id", "level_min", "right_count", "right_sum")
        return cls(*(grouped[name].to_numpy() for name in columns))

    def accuracy(self) -> NDArray[np.float64]:
        """Share of right answers, one value per problem."""
        return self.right / self.judged

    def pass_at(self, k: int) -> NDArray[np.float64]:
        """Unbiased pass@k, one value per problem with at least ``k`` judged answers."""
        enough = self.judged >= k
        right, judged = torch.as_tensor(self.right[enough]), self.judged[enough]
        found = np.zeros(len(judged))
        for n in np.unique(judged):
            of_size = judged == n
            found[of_size] = pass_at_k(right[torch.as_tensor(of_size)], int(n), k).double().numpy()
        return found


TALLY = (
    *("problem_id", "level", "reward", "reward_error", "finish_reason", "greedy", "thinking_tokens"),
    *("total", "rewards", "notes"),
)


def tally(answers: pa.Table) -> pa.Table:
    """What ``scores`` asks of answers (``ANSWERS``): a few narrow columns, ``tokens`` among them."""
    return answers.select(TALLY).append_column("tokens", sampled_lengths(answers))


def scores(answers: pa.Table, token_means: dict[str, Any], params: Params, round: int) -> dict[str, Any]:
    """All scores of one evaluation, by the ``tally`` of its answers.

    Accuracy is over the answers that the judge could judge; ``unjudged`` counts the others. Length,
    truncation and the means over tokens are over all sampled answers, since no judge is needed for them.
    """
    sampled = answers.filter(pc.invert(answers["greedy"]))
    reasons = [reason[:REASON_CHARACTERS] for reason in answers["reward_error"].drop_null().to_pylist()]
    counts, greedy = Counts.of(sampled), Counts.of(answers.filter(answers["greedy"]))

    def interval(values: NDArray[np.float64]) -> dict[str, float | None]:
        # All scores resample the same problems, so that equal scores have equal intervals.
        generator = numpy_generator(params.seed, "evaluate", round, "bootstrap")
        given = params.evaluate
        return asdict(mean_interval(values, given.confidence, given.bootstrap_samples, generator))

    return {
        "round": round,
        "problems": len(counts.judged),
        "samples": len(sampled),
        "samples_per_problem": params.evaluate.samples_per_problem,
        "confidence": params.evaluate.confidence,
        "unjudged": answers["reward"].null_count,
        "mean_at_n": interval(counts.accuracy()),
        "pass_at": {str(k): interval(counts.pass_at(k)) for k in params.evaluate.pass_at},
        "greedy": interval(greedy.accuracy()),
        "levels": {
            str(level): {
                "problems": int((counts.level == level).sum()),
                **interval(counts.accuracy()[counts.level == level]),
            }
            for level in np.unique(counts.level)
        },
        "response_length": pc.mean(sampled["tokens"]).as_py(),
        **_thinking(sampled),
        "truncated": truncated(sampled),
        "reward_errors": dict(sorted(Counter(reasons).items())),
        **components(sampled),
        **token_means,
    }


def _thinking(answers: pa.Table) -> dict[str, float]:
    """Mean tokens of thinking and of what follows it; nothing where no answer thinks."""
    thinking = answers["thinking_tokens"]
    if thinking.null_count == len(thinking):
        return {}
    mean = float(pc.mean(pc.fill_null(thinking, 0)).as_py())
    return {"thinking_length": mean, "answer_length": float(pc.mean(answers["tokens"]).as_py()) - mean}
