"""A replay buffer as a table: admitted rollouts with their birth round and frozen log-probabilities.

The rules are those of ``params.schema.Replay``: which fresh rollouts enter, at most how many of a problem and
round, first in first out, a largest age in rounds and a largest number of rows. A table has any columns
beside ``problem_id``, ``group``, ``sample`` and ``reward``; the buffer adds ``round`` (of birth, where it
is missing), ``group_accuracy`` (mean reward of the group at birth) and ``admitted_as`` (the rule). Nothing
ever changes a row that is in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from params.schema import Replay

CORRECT = 1.0
"""A response is correct when its reward is at least this."""

Evicted = dict[int, dict[str, int]]
"""Rows that left, by birth round and reason (``age``, ``drift``, ``capacity``)."""


class ReplayBuffer:
    """Rows in order of birth: by round, and within a round as the rollouts came."""

    def __init__(self, rules: Replay | None = None, table: pa.Table | None = None) -> None:
        self.rules = rules or Replay()
        self._table = table

    @classmethod
    def from_table(cls, table: pa.Table, rules: Replay | None = None) -> ReplayBuffer:
        """The buffer that ``to_table`` gave."""
        return cls(rules, table)

    def to_table(self) -> pa.Table:
        """All rows; a table without columns before the first ``admit``."""
        return pa.table({}) if self._table is None else self._table

    def __len__(self) -> int:
        return int(self.to_table().num_rows)

    def cohorts(self) -> dict[int, int]:
        """Rows by birth round, the oldest first."""
        return dict(sorted(Counter(_births(self.to_table())).items()))

    def admit(self, rollouts: pa.Table, round: int) -> dict[str, int]:
        """Let in what the rule allows; rows by fate: ``admitted`` or why not.

        A row without a reward (null) never enters. Of a problem, those with the lowest sample number enter:
        samples of a group are exchangeable. Raises ``ValueError`` for a round that is in already or is not
        that of the rollouts.
        """
        if round in self.cohorts():
            raise ValueError(f"round {round} is in the buffer already")
        if "round" not in rollouts.column_names:
            rollouts = rollouts.append_column("round", pa.array([round] * len(rollouts), pa.int32()))
        if set(_births(rollouts)) - {round}:
            raise ValueError(f"rollouts of rounds {sorted(set(_births(rollouts)))} offered as round {round}")
        rewards = rollouts["reward"].to_numpy().astype(np.float64)
        accuracy = _group_means(rewards, rollouts["group"].to_numpy())
        fates = self._fates(rollouts, rewards, accuracy)
        chosen = [i for i, fate in enumerate(fates) if fate == "admitted"]
        fresh = rollouts.append_column("group_accuracy", pa.array(accuracy, pa.float32(), from_pandas=True))
        fresh = fresh.append_column("admitted_as", pa.array([self.rules.admit] * len(rollouts), pa.string()))
        fresh = fresh.take(pa.array(chosen, pa.int64()))
        if self._table is None:
            self._table = fresh
        else:
            self._table = pa.concat_tables(
                [self._table, fresh.select(self._table.column_names).cast(self._table.schema)]
            )
        return dict(sorted(Counter(fates).items()))

    def _fates(
        self, rollouts: pa.Table, rewards: npt.NDArray[np.float64], accuracy: npt.NDArray[np.float64]
    ) -> list[str]:
        problems, samples = rollouts["problem_id"].to_pylist(), rollouts["sample"].to_numpy()
        groups = rollouts["group"].to_numpy()
        fates = [
            self._fate(reward, bool(mean >= CORRECT)) for reward, mean in zip(rewards, accuracy, strict=True)
        ]
        taken: Counter[str] = Counter()
        for i in sorted(range(len(fates)), key=lambda i: (groups[i], samples[i])):
            if fates[i] == "admitted":
                taken[problems[i]] += 1
                if taken[problems[i]] > self.rules.per_problem:
                    fates[i] = "enough_of_problem"
        return fates

    def _fate(self, reward: float, all_correct: bool) -> str:
        if math.isnan(reward):
            return "no_reward"
        if self.rules.admit == "none":
            return "rule_none"
        if self.rules.admit != "all" and reward < CORRECT:
            return "incorrect"
        if self.rules.admit == "correct_unless_all" and all_correct:
            return "all_correct"
        return "admitted"

    def evict(
        self, round: int, drift: Mapping[int, float] | None = None, max_drift: float = math.inf
    ) -> Evicted:
        """Let go what is too old for ``round``, has drifted, or exceeds the capacity, the oldest first.

        A row leaves when ``round`` minus its birth exceeds ``max_age``. ``drift`` gives a divergence (nats a
        token) from the present policy by birth round: from the youngest cohort that exceeds ``max_drift`` on,
        that one and all older ones leave.
        """
        births = _births(self.to_table())
        over = [born for born, value in (drift or {}).items() if value > max_drift]
        horizon = max(over, default=-(2**62))
        reasons = [
            "age" if round - born > self.rules.max_age else "drift" if born <= horizon else ""
            for born in births
        ]
        staying = [i for i, reason in enumerate(reasons) if not reason]
        for i in staying[: max(len(staying) - self.rules.capacity, 0)]:
            reasons[i] = "capacity"
        if self._table is not None and any(reasons):
            kept = [i for i, reason in enumerate(reasons) if not reason]
            self._table = self._table.take(pa.array(kept, pa.int64()))
        gone: Evicted = {}
        for born, reason in zip(births, reasons, strict=True):
            if reason:
                counts = gone.setdefault(born, {})
                counts[reason] = counts.get(reason, 0) + 1
        return dict(sorted(gone.items()))

    def sample(self, count: int, generator: torch.Generator) -> pa.Table:
        """``count`` different rows, or all where there are fewer, uniformly and in random order."""
        order = torch.randperm(len(self), generator=generator)[:count]
        return self.to_table().take(pa.array(order.numpy(), pa.int64()))


def _births(table: pa.Table) -> list[int]:
    births: list[int] = table["round"].to_pylist() if "round" in table.column_names else []
    return births


def _group_means(rewards: npt.NDArray[np.float64], group: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """For every row the mean reward of its group over the rows that have one; NaN where none has."""
    _, place = np.unique(group, return_inverse=True)
    given = ~np.isnan(rewards)
    total = np.bincount(place, weights=np.where(given, rewards, 0.0))
    count = np.bincount(place, weights=given.astype(np.float64))
    means = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return means[place]
