"""ExGRPO: half of each round's problems are ones solved sometimes, each with one of its stored answers.

    pool      right answers to problems solved k times of n, 0 < k < n; a problem solved n times retires
    bucket    P(k) ~ N(k; n / 2, n / 8) over the buckets that hold a problem (n = 8: N(k; 4, 1), in counts)
    answer    the problem's stored one with the lowest mean token entropy under the current policy
    group     that one and n - 1 fresh ones,  A = R - mean R
    loss      -f(r) A,  f(r) = r / (r + 0.1),  r = pi / mu with mu stored at birth, no clip: the replayed one
              the objective's: the fresh ones; both over one denominator

Zhan et al. 2025, ExGRPO, arXiv 2510.02245, and its code, whose bucket probabilities are in counts (the
paper's notation, a deviation of 1 in accuracy, would be nearly uniform). Our reconstruction: group sizes
other than 8, and k of a group with a stored answer, which counts that answer. The entropy is a mean over the
response's own tokens. Admission, start and retirement are rules of ``params.schema.Replay``.
"""

from __future__ import annotations

from typing import Annotated

import pyarrow as pa
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from algorithms.divergence import log_ratio
from algorithms.drawing import Drawn, Entropy, Fresh, ReplayedProblems, picked, rows_by_problem
from algorithms.replay_buffer import ReplayBuffer
from algorithms.terms import Batch, MetricLabel, Metrics, Signals, Term, aggregation_scale
from params.base import Config as Options

__all__ = ["bucket_probabilities", "shaped"]

DRAWS_ROUND_BEFORE = True
METRICS = (
    MetricLabel("ratio", "Replayed: ratio", "mean pi / mu of replayed tokens, mu stored at birth"),
    MetricLabel("ratio_max", "Replayed: largest ratio", "pi / mu of the token that moved most"),
    MetricLabel("shaped", "Replayed: shaped ratio", "mean r / (r + offset) of replayed tokens"),
)


class Config(Options):
    """Which problems return, and how their stored answers weigh."""

    share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """The pool's problems as a share of a round's."""
    center: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Share of right answers at which a problem returns most often."""
    spread: PositiveFloat = 0.125
    """Standard deviation of that share in the bucket probabilities."""
    offset: PositiveFloat = 0.1
    """The shaped ratio is r / (r + offset)."""


def problems(
    rows: pa.Table, results: pa.Table, count: int, config: Config, generator: torch.Generator
) -> ReplayedProblems:
    """The pool's share of ``count`` problems: a bucket by its probability, then any problem of it, without
    replacement; what a bucket cannot give, the others do."""
    whole = max(results["samples"].to_pylist(), default=0)
    solved = {
        result["problem_id"]: result["correct"] + whole - result["samples"] for result in results.to_pylist()
    }
    retired = frozenset(problem for problem, k in solved.items() if k >= whole)
    buckets: dict[int, list[str]] = {}
    for problem in sorted(rows_by_problem(rows).keys() - retired):
        buckets.setdefault(solved[problem], []).append(problem)
    chosen: list[str] = []
    while buckets and len(chosen) < int(config.share * count):
        k = sorted(buckets)
        weights = bucket_probabilities(torch.tensor(k), whole, config)
        bucket = k[int(torch.multinomial(weights, 1, generator=generator))]
        place = int(torch.randint(len(buckets[bucket]), (1,), generator=generator))
        chosen.append(buckets[bucket].pop(place))
        if not buckets[bucket]:
            del buckets[bucket]
    return ReplayedProblems(chosen, retired)


def bucket_probabilities(k: Tensor, samples: int, config: Config) -> Tensor:
    """The chance [B] of each bucket of problems with ``k`` [B] of ``samples`` answers right; float64."""
    distance = (k.double() / samples - config.center) / config.spread
    return (-0.5 * distance.square()).softmax(0)


def draw(
    fresh: Fresh, buffer: ReplayBuffer, config: Config, generator: torch.Generator, entropy: Entropy
) -> Drawn:
    """The stored answer of lowest entropy to each problem whose group was sampled short."""
    rows = buffer.to_table()
    known = rows_by_problem(rows)
    short = set(fresh.group[fresh.missing > 0].tolist())
    wanted = {group: known[p] for group, p in fresh.problems().items() if group in short and p in known}
    candidates = [place for places in wanted.values() for place in places]
    found = entropy(picked(rows, candidates)).tolist() if candidates else []
    spread = dict(zip(candidates, found, strict=True))
    taken = [min(places, key=lambda place: spread[place]) for places in wanted.values()]
    return Drawn(picked(rows, taken), torch.tensor(list(wanted), dtype=torch.int64), "denominator")


def shaped(ratio: Tensor, offset: float = 0.1) -> Tensor:
    """f(r) = r / (r + offset); its derivative in log r is largest at r = offset."""
    return ratio / (ratio + offset)


def term(batch: Batch, config: Config) -> Term:
    """-f(r) A on the replayed tokens, in the objective's denominator.

    Metrics [t]: ``ratio``, ``ratio_max``: pi / mu; ``shaped``: f.
    """
    counted = batch.fresh if batch.counted is None else batch.counted
    mine = torch.zeros_like(counted) if batch.objective is None else counted & ~batch.objective
    scale = aggregation_scale(batch.sequence, counted[batch.sequence], batch.aggregation, batch.max_tokens)
    scale = torch.where(mine[batch.sequence] & (batch.advantage != 0), scale, torch.zeros_like(scale))

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        ratio = log_ratio(signals.logp, batch.behaviour_logp[index]).exp()
        value = shaped(ratio, config.offset)
        seen = ratio.detach()
        metrics = {"ratio": seen, "ratio_max": seen, "shaped": value.detach()}
        return -value * batch.advantage[index], metrics

    return Term(name="exgrpo", scale=scale, token_loss=token_loss)
