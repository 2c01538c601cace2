"""The statistics of a comparison: intervals on every figure, effects against the baseline, seeds needed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from params.lab import Lab
from tasks.core.seeds import numpy_generator
from tasks.report.comparison.data import ACCURACY, AXES, Compared, Measured
from tasks.stats.paired_tests import holm
from tasks.stats.power import detectable, seeds_needed
from tasks.stats.two_level_bootstrap import Draws, Estimate, Floats, difference, seed_means, sizes

DRAWS = 2000


@dataclass(frozen=True)
class Effect:
    """What a method has over the baseline after the last round."""

    arm: str
    estimate: Estimate
    p_holm: float | None
    """Corrected by Holm for the number of methods held against the baseline."""
    needed: int | None
    """Seeds that would show this difference four times in five, at the level of Holm's first step."""
    detectable: float | None
    """The smallest difference that the seeds which there are see four times in five."""

    def shown(self, alpha: float) -> bool:
        """Whether the difference is shown at that level, all methods together."""
        return self.p_holm is not None and self.p_holm < alpha


@dataclass(frozen=True)
class CurvePoint:
    """A method after so many rounds, over its seeds."""

    at: dict[str, float]
    """Mean place on each of ``AXES``."""
    estimate: Estimate


class Comparison:
    """The runs, and the questions that are asked of them."""

    def __init__(self, lab: Lab, runs: Sequence[Compared], draws: int = DRAWS) -> None:
        self.lab = lab
        self.runs = runs
        self.alpha = 1 - lab.confidence
        self.arms = [arm for arm in lab.arms if any(run.arm == arm for run in runs)]
        self.baseline = lab.baseline if lab.baseline in self.arms else None
        every = [{run.seed: m.problems[ACCURACY]} for run in runs for m in run.measured[:1]]
        self.problems = sizes(every)
        self._draws = Draws(self.problems, draws, numpy_generator(0, "compare", 0, "bootstrap"))

    def of(self, arm: str) -> list[Compared]:
        """The runs of a method that came to their end, diverged ones included."""
        return [run for run in self.runs if run.arm == arm]

    def metrics(self) -> list[str]:
        """What is measured problem by problem: accuracy, greedy, pass@k."""
        found = (name for run in self.runs for m in run.measured[:1] for name in m.problems)
        return list(dict.fromkeys(found))

    def figures(self, arm: str) -> dict[int, Measured]:
        """The last policy of each seed, of the runs that reached their last round."""
        return {run.seed: run.final for run in self.of(arm) if run.final is not None}

    def final(self, arm: str, metric: str) -> Estimate | None:
        """A metric after the last round."""
        return self._estimate({seed: m.problems[metric] for seed, m in self.figures(arm).items()})

    def base(self, metric: str) -> Estimate | None:
        """The same of the base model, which all methods begin from."""
        first = {run.seed: run.measured[0] for run in self.runs if run.measured}
        return self._estimate({seed: m.problems[metric] for seed, m in first.items() if m.round == 0})

    @functools.cached_property
    def effects(self) -> dict[str, dict[str, Effect]]:
        """By metric and method: what it has over the baseline; without a baseline, nothing."""
        return {metric: self._effects(metric) for metric in self.metrics()}

    def curve(self, arm: str, metric: str) -> list[CurvePoint]:
        """A metric over the rounds that all seeds of the method have, and after the last one of each."""
        points = []
        for measured in self._along(arm):
            values = {seed: m.problems[metric] for seed, m in measured.items()}
            estimate = self._estimate(values)
            if estimate is not None:
                points.append(CurvePoint(_mean_place(list(measured.values())), estimate))
        return points

    def lead(self, arm: str) -> list[CurvePoint]:
        """Its accuracy less the baseline's, over the rounds that all seeds of both have."""
        if self.baseline is None or arm == self.baseline:
            return []
        against = {_round(measured): measured for measured in self._along(self.baseline)}
        points = []
        for measured in self._along(arm):
            other = against.get(_round(measured), {})
            changes = difference(_accuracy(measured), _accuracy(other))
            estimate = self._estimate(changes) if changes else None
            if estimate is not None:
                points.append(CurvePoint(_mean_place(list(measured.values())), estimate))
        return points

    def token_curve(self, arm: str, name: str) -> list[CurvePoint]:
        """Entropy and the like, which have one value a run and no problems."""
        points = []
        for measured in self._along(arm):
            values = {s: np.array([m.figures[name]]) for s, m in measured.items() if name in m.figures}
            estimate = self._tokens.estimate(values, self.lab.confidence) if values else None
            if estimate is not None:
                points.append(CurvePoint(_mean_place(list(measured.values())), estimate))
        return points

    def over_seeds(self, values: dict[int, float]) -> Estimate | None:
        """A figure of each seed's run: its mean, with Student's interval but for the chance of the draws."""
        held = {seed: np.array([value]) for seed, value in values.items()}
        return self._tokens.estimate(held, self.lab.confidence)

    @functools.cached_property
    def _tokens(self) -> Draws:
        generator = numpy_generator(0, "compare", 0, "seeds")
        return Draws(dict.fromkeys(self.problems, 1), self._draws.count, generator)

    def _along(self, arm: str) -> list[dict[int, Measured]]:
        """The policies of the method side by side: rounds that every seed has, then each seed's last."""
        runs = [run for run in self.of(arm) if run.final is not None]
        if not runs:
            return []
        by_round = [{m.round: m for m in run.measured} for run in runs]
        common = sorted(set.intersection(*(set(rounds) for rounds in by_round)))
        found = [{run.seed: m[round] for run, m in zip(runs, by_round, strict=True)} for round in common]
        if any(run.rounds != common[-1] for run in runs):
            found.append(self.figures(arm))
        return found

    def _estimate(self, values: dict[int, Floats]) -> Estimate | None:
        return self._draws.estimate(values, self.lab.confidence)

    def _effects(self, metric: str) -> dict[str, Effect]:
        if self.baseline is None:
            return {}
        against = {seed: m.problems[metric] for seed, m in self.figures(self.baseline).items()}
        found: dict[str, tuple[Estimate, list[float]]] = {}
        for arm in self.arms:
            mine = {seed: m.problems[metric] for seed, m in self.figures(arm).items()}
            changes = difference(mine, against)
            estimate = self._estimate(changes) if arm != self.baseline else None
            if estimate is not None:
                found[arm] = (estimate, list(seed_means(changes).values()))
        corrected = holm([estimate.p for estimate, _ in found.values()])
        level = self.alpha / max(len(found), 1)
        return {
            arm: Effect(arm, estimate, p, seeds_needed(by_seed, level), detectable(by_seed, level))
            for (arm, (estimate, by_seed)), p in zip(found.items(), corrected, strict=True)
        }


def _round(measured: dict[int, Measured]) -> int | None:
    """The round that all seeds are at, if it is one."""
    rounds = {each.round for each in measured.values()}
    return rounds.pop() if len(rounds) == 1 else None


def _accuracy(measured: dict[int, Measured]) -> dict[int, Floats]:
    return {seed: each.problems[ACCURACY] for seed, each in measured.items()}


def _mean_place(measured: list[Measured]) -> dict[str, float]:
    return {axis: float(np.mean([m.at[axis] for m in measured])) for axis in AXES}
