"""The statistics of a comparison: intervals on every figure, effects against the baseline, seeds needed.

What is measured problem by problem on held-out sets (accuracy, greedy, pass@k) has intervals over seeds and
problems, by the two-level bootstrap; a figure with one value per run has Student's over seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from params.comparison import Comparison, Metric
from tasks.core.seeds import numpy_generator
from tasks.report.comparison.data import ACCURACY, Compared
from tasks.stats.intervals import Estimate
from tasks.stats.paired_tests import holm, paired, student
from tasks.stats.power import detectable, seeds_needed
from tasks.stats.two_level_bootstrap import Draws, Floats, difference, seed_means

DRAWS = 2000
HELD_OUT = {"evaluate.mean_at_n": ACCURACY, "evaluate.greedy": "greedy"}
"""What is measured problem by problem: its name in ``curves.parquet``, and here."""

Steps = list[tuple[Compared, int]]
"""Runs of an arm side by side, each at a round of its own."""


@dataclass(frozen=True)
class Effect:
    """What an arm has over the baseline after the last round."""

    arm: str
    estimate: Estimate
    p_holm: float | None
    """Corrected by Holm for the number of arms held against the baseline."""
    needed: int | None
    """Seeds that would show this difference four times in five, at the level of Holm's first step."""
    detectable: float | None
    """The smallest difference that the seeds which there are see four times in five."""

    def shown(self, alpha: float) -> bool:
        """Whether the difference is shown at that level, all arms together."""
        return self.p_holm is not None and self.p_holm < alpha


@dataclass(frozen=True)
class CurvePoint:
    """An arm after so many rounds, over its seeds."""

    at: Mapping[str, float]
    """Mean place on each of ``AXES``; of a figure that is no evaluation's, on ``round`` alone."""
    estimate: Estimate


class Results:
    """The runs of a comparison, and the questions that are asked of them."""

    def __init__(self, comparison: Comparison, runs: Sequence[Compared]) -> None:
        self.comparison = comparison
        self.runs = runs
        self.confidence = comparison.confidence
        self.alpha = 1 - comparison.confidence
        self.arms = [arm for arm in comparison.arms if any(run.arm == arm for run in runs)]
        self.against = comparison.baseline or next(iter(comparison.arms))
        """What the others were to be held against."""
        self.baseline = self.against if self.against in self.arms else None
        """The same, where it has a run that came to its end."""
        self.noun = "arm" if any(arm.set for arm in comparison.arms.values()) else "method"
        self.problems = {run.seed: len(m.problems[ACCURACY]) for run in runs for m in run.measured[:1]}
        """How many are held out, by seed."""
        self.held_out = list(dict.fromkeys(name for r in runs for m in r.measured[:1] for name in m.problems))
        self.figures = {name for run in runs for name in run.figures}
        """By name, what some run tells."""

    @property
    def width(self) -> str:
        """How wide the intervals are: ``95%``."""
        return f"{100 * self.confidence:g}%"

    @functools.cached_property
    def _draws(self) -> Draws:
        return Draws(self.problems, DRAWS, numpy_generator(0, "compare", 0, "bootstrap"))

    @functools.cached_property
    def metrics(self) -> dict[str, Metric]:
        """By name, what is told of every arm: what is held out first, then what the comparison adds."""
        own = {self.named(name): metric for name, metric in self.comparison.metrics.items()}
        found = {
            name: Metric(
                label=(own[name].label if name in own else "") or name, percent=True, better="higher"
            )
            for name in self.held_out
        }
        return found | {n: metric for n, metric in own.items() if n not in found and n in self.figures}

    def named(self, metric: str) -> str:
        """What a figure of ``curves.parquet`` is called here: ``accuracy``, ``pass@4``, or as there."""
        name = HELD_OUT.get(metric, metric.replace("evaluate.pass_at.", "pass@"))
        return name if name in self.held_out else metric

    def of(self, arm: str) -> list[Compared]:
        """The runs of an arm that came to their end, diverged ones included."""
        return [run for run in self.runs if run.arm == arm]

    def at_end(self, arm: str) -> list[Compared]:
        """The runs of an arm that reached their last round."""
        return [run for run in self.of(arm) if run.final is not None]

    def final(self, arm: str, metric: str) -> Estimate | None:
        """A metric after the last round."""
        return self._estimate(metric, self._finals(arm, metric))

    def base(self, metric: str) -> Estimate | None:
        """The same of the base model, which all arms begin from."""
        return self._estimate(metric, self._across([(run, 0) for run in self.runs], metric))

    def best(self, arm: str, metric: str) -> Estimate | None:
        """The best value over the rounds, that of the base model included, of each seed."""
        choose = min if self.metrics[metric].better == "lower" else max
        paths = {run.seed: self.path(run, metric) for run in self.of(arm)}
        return self.over_seeds({seed: choose(path.values()) for seed, path in paths.items() if path})

    def collapsed(self, arm: str) -> float:
        """The share of its runs whose accuracy ended below half of its best, or not finite."""
        metric = self.named(self.comparison.accuracy)
        paths = [(run, self.path(run, metric)) for run in self.of(arm)]
        gone = [
            run.diverged or run.rounds not in path or path[run.rounds] < max(path.values()) / 2
            for run, path in paths
        ]
        return sum(gone) / len(gone)

    def path(self, run: Compared, metric: str) -> dict[int, float]:
        """The metric of one run by round, without rounds that have none."""
        values = {round: self._values(run, metric, round) for round in self._rounds(run, metric)}
        return {round: float(np.nanmean(v)) for round, v in values.items() if not np.isnan(v).all()}

    @functools.cached_property
    def effects(self) -> dict[str, dict[str, Effect]]:
        """By metric and arm: what it has over the baseline; without a baseline, nothing."""
        return {metric: self._effects(metric) for metric in self.metrics}

    def curve(self, arm: str, metric: str) -> list[CurvePoint]:
        """A metric over the rounds that all seeds of the arm have, and after the last one of each."""
        found = [(s, self._estimate(metric, self._across(s, metric))) for s in self._along(arm, metric)]
        return [CurvePoint(_mean_place(s), estimate) for s, estimate in found if estimate is not None]

    def curves(self, metric: str) -> dict[str, list[CurvePoint]]:
        """That of every arm."""
        return {arm: self.curve(arm, metric) for arm in self.arms}

    def lead(self, arm: str) -> list[CurvePoint]:
        """Its accuracy less the baseline's, over the rounds that all seeds of both have."""
        if self.baseline is None or arm == self.baseline:
            return []
        against = {_round(s): self._across(s, ACCURACY) for s in self._along(self.baseline, ACCURACY)}
        changes = [
            (s, difference(self._across(s, ACCURACY), against.get(_round(s), {})))
            for s in self._along(arm, ACCURACY)
        ]
        found = [(s, self._estimate(ACCURACY, change)) for s, change in changes]
        return [CurvePoint(_mean_place(s), estimate) for s, estimate in found if estimate is not None]

    def over_seeds(self, values: Mapping[int, float]) -> Estimate | None:
        """A figure of each seed's run: its mean, with Student's interval."""
        return student(values, self.confidence)

    def _along(self, arm: str, metric: str) -> list[Steps]:
        """The runs of the arm side by side: rounds that every seed has, then each seed's last."""
        runs = self.at_end(arm)
        if not runs:
            return []
        common = sorted(set.intersection(*(set(self._rounds(run, metric)) for run in runs)))
        found = [[(run, round) for run in runs] for round in common]
        if common and any(run.rounds != common[-1] for run in runs):
            found.append([(run, run.rounds) for run in runs])
        return found

    def _rounds(self, run: Compared, metric: str) -> list[int]:
        """The rounds of which the run tells this, be it that nothing was measured."""
        return [m.round for m in run.measured] if metric in self.held_out else [*run.figures.get(metric, {})]

    def _values(self, run: Compared, metric: str, round: int) -> Floats:
        """A value for each held-out problem, or the one that there is; NaN: none."""
        if metric not in self.held_out:
            return np.array([run.figure(metric, round)], dtype=np.float64)
        found = run.at(round)
        return np.full(1, np.nan) if found is None else found.problems[metric]

    def _across(self, steps: Steps, metric: str) -> dict[int, Floats]:
        return {run.seed: self._values(run, metric, round) for run, round in steps}

    def _finals(self, arm: str, metric: str) -> dict[int, Floats]:
        return self._across([(run, run.rounds) for run in self.at_end(arm)], metric)

    def _estimate(self, metric: str, values: Mapping[int, Floats]) -> Estimate | None:
        if metric in self.held_out:
            return self._draws.estimate(values, self.confidence)
        return self.over_seeds(seed_means(values))

    def _effects(self, metric: str) -> dict[str, Effect]:
        if self.baseline is None:
            return {}
        against = self._finals(self.baseline, metric)
        found: dict[str, tuple[Estimate, list[float]]] = {}
        for arm in [arm for arm in self.arms if arm != self.baseline]:
            mine = self._finals(arm, metric)
            changes = difference(mine, against)
            if metric in self.held_out:
                estimate = self._draws.estimate(changes, self.confidence)
            else:
                estimate = paired(seed_means(mine), seed_means(against), self.confidence)
            if estimate is not None:
                found[arm] = (estimate, list(seed_means(changes).values()))
        corrected = holm([estimate.p for estimate, _ in found.values()])
        level = self.alpha / max(len(found), 1)
        return {
            arm: Effect(arm, estimate, p, seeds_needed(by_seed, level), detectable(by_seed, level))
            for (arm, (estimate, by_seed)), p in zip(found.items(), corrected, strict=True)
        }


def _round(steps: Steps) -> int | None:
    """The round that all seeds are at, if it is one."""
    rounds = {round for _, round in steps}
    return rounds.pop() if len(rounds) == 1 else None


def _mean_place(steps: Steps) -> dict[str, float]:
    places = [found.at if (found := run.at(round)) else {"round": float(round)} for run, round in steps]
    shared = [axis for axis in places[0] if all(axis in place for place in places)]
    return {axis: float(np.mean([place[axis] for place in places])) for axis in shared}
