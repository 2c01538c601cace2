"""A replay buffer as a table: admitted rollouts with their birth round and frozen log-probabilities.

The rules are those of ``params.schema.Replay``: which fresh rollouts enter, at most how many of a problem and
of a round, first in first out, a largest age in rounds and a largest number of rows. A round's order is
``evict``, ``admit``, ``trim``. A table has any columns beside ``problem_id``, ``group``, ``sample`` and
``reward``; the buffer adds ``round`` (of birth, where it is missing), ``group_accuracy`` (mean reward of the
group at birth) and ``admitted_as`` (the rule). Nothing ever changes a row that is in.

Beside the rows it knows of every problem how its last group went (``results``), and in which round it began
to admit (``started``).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from algorithms.correct import CORRECT
from params.schema import Replay

RESULTS = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("correct", pa.int32(), nullable=False),  # of its last group
        pa.field("samples", pa.int32(), nullable=False),  # responses of that group, judged or not
        pa.field("round", pa.int32(), nullable=False),
    ]
)

Evicted = dict[int, dict[str, int]]
"""Rows that left, by birth round and reason (``age``, ``drift``, ``retired``, ``capacity``)."""

Chooser = Callable[[Tensor, Tensor, Tensor], list[int]]
"""Which of S rollouts enter, in order: by rewards [S] (NaN: none), groups [S], and who may at all [S]."""


class ReplayBuffer:
    """Rows in order of birth: by round, and within a round as the rollouts came.

    ``table``, ``results`` and ``started`` are those of the buffer that this one continues, if any.
    """

    def __init__(
        self,
        rules: Replay | None = None,
        table: pa.Table | None = None,
        results: pa.Table | None = None,
        started: int | None = None,
    ) -> None:
        self.rules = rules or Replay()
        self.results = RESULTS.empty_table() if results is None else results
        self.started = started
        self._table = table

    def to_table(self) -> pa.Table:
        """All rows; a table without columns before the first ``admit``."""
        return pa.table({}) if self._table is None else self._table

    def __len__(self) -> int:
        return int(self.to_table().num_rows)

    def cohorts(self) -> dict[int, int]:
        """Rows by birth round, the oldest first."""
        return dict(sorted(Counter(_births(self.to_table())).items()))

    def admit(
        self, rollouts: pa.Table, round: int, scale: float = 1.0, choose: Chooser | None = None
    ) -> dict[str, int]:
        """Let in what the rules allow; rows by fate: ``admitted`` or why not.

        A row without a reward (null) never enters. Of a problem, those with the lowest sample number enter:
        samples of a group are exchangeable. At most ceil(``scale`` x ``per_round``) enter, in the order of
        ``choose``, which is the method's with ``admit: method``; without, each problem's first before any
        problem's second. Raises ``ValueError`` for a round that is in already or is not that of the rollouts.
        """
        if round in self.cohorts():
            raise ValueError(f"round {round} is in the buffer already")
        if "round" not in rollouts.column_names:
            rollouts = rollouts.append_column("round", pa.array([round] * len(rollouts), pa.int32()))
        if set(_births(rollouts)) - {round}:
            raise ValueError(f"rollouts of rounds {sorted(set(_births(rollouts)))} offered as round {round}")
        rewards = rollouts["reward"].to_numpy().astype(np.float64)
        accuracy = _group_means(rewards, rollouts["group"].to_numpy())
        self._start(rewards, round)
        fates = self._fates(rollouts, rewards, accuracy, scale, choose)
        self.results = _latest(self.results, rollouts, rewards, round)
        fresh = rollouts.append_column("group_accuracy", pa.array(accuracy, pa.float32(), from_pandas=True))
        fresh = fresh.append_column("admitted_as", pa.array([self.rules.admit] * len(rollouts), pa.string()))
        fresh = fresh.filter(pa.array([fate == "admitted" for fate in fates], pa.bool_()))
        if self._table is not None:
            same = fresh.select(self._table.column_names).cast(self._table.schema)
            fresh = pa.concat_tables([self._table, same])
        self._table = fresh
        return dict(sorted(Counter(fates).items()))

    def _start(self, rewards: npt.NDArray[np.float64], round: int) -> None:
        judged = rewards[~np.isnan(rewards)]
        solved = float((judged >= CORRECT).mean()) if len(judged) else 0.0
        if self.started is None and (self.rules.start_above == 0 or solved > self.rules.start_above):
            self.started = round

    def _fates(
        self,
        rollouts: pa.Table,
        rewards: npt.NDArray[np.float64],
        accuracy: npt.NDArray[np.float64],
        scale: float,
        choose: Chooser | None,
    ) -> list[str]:
        problems, samples = rollouts["problem_id"].to_pylist(), rollouts["sample"].to_numpy()
        groups = rollouts["group"].to_numpy()
        answers = _answers(rollouts) if self.rules.distinct else []
        known = set(_answers(self.to_table()) if self.rules.distinct else [])
        fates = [
            self._fate(reward, bool(mean >= CORRECT)) for reward, mean in zip(rewards, accuracy, strict=True)
        ]
        order = sorted(range(len(fates)), key=lambda i: (groups[i], samples[i]))
        taken: Counter[str] = Counter()
        places = []
        for i in order:
            if fates[i] == "admitted" and self.rules.distinct:
                fates[i] = "known" if answers[i] in known else "admitted"
                known.add(answers[i])
            if fates[i] != "admitted":
                continue
            taken[problems[i]] += 1
            if self.rules.per_problem is not None and taken[problems[i]] > self.rules.per_problem:
                fates[i] = "enough_of_problem"
            else:
                places.append((taken[problems[i]], groups[i], i))
        chosen = [i for _, _, i in sorted(places)]
        if choose is not None:
            eligible = torch.tensor([fate == "admitted" for fate in fates], dtype=torch.bool)
            chosen = choose(torch.tensor(rewards), torch.tensor(groups), eligible)
            left_out = set(eligible.nonzero().flatten().tolist()) - set(chosen)
            fates = ["not_chosen" if i in left_out else fate for i, fate in enumerate(fates)]
        if self.rules.per_round is not None:
            for i in chosen[math.ceil(scale * self.rules.per_round) :]:
                fates[i] = "enough_of_round"
        return fates

    def _fate(self, reward: float, all_correct: bool) -> str:
        if math.isnan(reward):
            return "no_reward"
        if self.rules.admit == "none":
            return "rule_none"
        if self.started is None:
            return "not_started"
        if self.rules.admit != "all" and reward < CORRECT:
            return "incorrect"
        if self.rules.admit == "correct_unless_all" and all_correct:
            return "all_correct"
        return "admitted"

    def evict(
        self, round: int, drift: Mapping[int, float] | None = None, max_drift: float | None = None
    ) -> Evicted:
        """Let go what is too old for ``round`` or has drifted.

        A row leaves when ``round`` minus its birth exceeds ``max_age``. ``drift`` gives a divergence (nats a
        token) from the present policy by birth round: from the youngest cohort that exceeds ``max_drift``
        (None: the rules' ``drift_bound``) on, that one and all older ones leave.
        """
        births = _births(self.to_table())
        bound = self.rules.drift_bound if max_drift is None else max_drift
        horizon = max((born for born, value in (drift or {}).items() if value > bound), default=-(2**62))
        reasons = [
            "age" if round - born > self.rules.max_age else "drift" if born <= horizon else ""
            for born in births
        ]
        return self._leave(births, reasons)

    def trim(self) -> Evicted:
        """Let go rows of problems that are solved, with ``retire``, and the oldest beyond the capacity."""
        births = _births(self.to_table())
        reasons = [""] * len(births)
        if self.rules.retire and reasons:
            retired = self.retired()
            problems = self.to_table()["problem_id"].to_pylist()
            reasons = ["retired" if problem in retired else "" for problem in problems]
        staying = [i for i, reason in enumerate(reasons) if not reason]
        for i in staying[: max(len(staying) - self.rules.capacity, 0)]:
            reasons[i] = "capacity"
        return self._leave(births, reasons)

    def _leave(self, births: list[int], reasons: list[str]) -> Evicted:
        """Let go the rows that have a reason."""
        if self._table is not None and any(reasons):
            kept = [i for i, reason in enumerate(reasons) if not reason]
            self._table = self._table.take(pa.array(kept, pa.int64()))
        gone: Evicted = {}
        for (born, reason), count in Counter(zip(births, reasons, strict=True)).items():
            if reason:
                gone.setdefault(born, {})[reason] = count
        return dict(sorted(gone.items()))

    def retired(self) -> set[str]:
        """Problems whose every response was correct when they were last asked."""
        return {row["problem_id"] for row in self.results.to_pylist() if row["correct"] == row["samples"]}

    def sample(self, count: int, generator: torch.Generator, together: bool = False) -> pa.Table:
        """``count`` different rows, or all where there are fewer, uniformly and in random order.

        ``together``: rows of a problem stay side by side, for they share its prompt. The problems lie around
        a circle in random order, and from a random row on the next ``count`` are taken: each row is as likely
        as any other, count / rows, and only the first and the last problem can be cut.
        """
        order = torch.randperm(len(self), generator=generator)
        if together and len(self):
            problems = self.to_table()["problem_id"].to_pylist()
            met: dict[str, list[int]] = {}
            for row in order.tolist():
                met.setdefault(problems[row], []).append(row)
            circle = torch.tensor([row for rows in met.values() for row in rows])
            order = circle.roll(int(torch.randint(len(circle), (1,), generator=generator)))
        return self.to_table().take(pa.array(order[:count].numpy(), pa.int64()))


def _answers(table: pa.Table) -> list[tuple[str, tuple[int, ...]]]:
    if not table.num_rows:
        return []
    responses = map(tuple, table["response_ids"].to_pylist())
    return list(zip(table["problem_id"].to_pylist(), responses, strict=True))


def _births(table: pa.Table) -> list[int]:
    return list(table["round"].to_pylist()) if "round" in table.column_names else []


def _latest(results: pa.Table, rollouts: pa.Table, rewards: npt.NDArray[np.float64], round: int) -> pa.Table:
    """``results`` with those of this round in place of older ones, by problem."""
    known = {row["problem_id"]: row for row in results.to_pylist()}
    problems = rollouts["problem_id"].to_pylist()
    samples = Counter(problems)
    correct = Counter(itertools.compress(problems, (rewards >= CORRECT).tolist()))
    for problem, count in samples.items():
        known[problem] = {
            "problem_id": problem,
            "correct": correct[problem],
            "samples": count,
            "round": round,
        }
    return pa.Table.from_pylist([known[problem] for problem in sorted(known)], schema=RESULTS)


def _group_means(rewards: npt.NDArray[np.float64], group: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """For every row the mean reward of its group over the rows that have one; NaN where none has."""
    _, place = np.unique(group, return_inverse=True)
    given = ~np.isnan(rewards)
    total = np.bincount(place, weights=np.where(given, rewards, 0.0))
    count = np.bincount(place, weights=given.astype(np.float64))
    means = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return means[place]
