"""How long the parts of a run take, and where each figure is from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flows.simulator.pool import StepTime
from tasks.core.seeds import numpy_generator

TURN_SECONDS = 0.085
"""Measured, of ``nano`` on one core: to begin a stage in a thread of Prefect's and hear of its end."""


@dataclass(frozen=True)
class Series:
    """Seconds by round. A round that is not there is like one of the others after the first."""

    by_round: Mapping[int, float]

    def at(self, round: int, seed: int, of: str) -> float:
        """Of a round, drawn where it is not known; ``of`` tells the draws of one round apart."""
        if round in self.by_round or not self.by_round:
            return self.by_round.get(round, 0.0)
        known = [self.by_round[each] for each in sorted(self.by_round)]
        later = known[1:] or known
        return later[int(numpy_generator(seed, "simulate", round, of).integers(len(later)))]


@dataclass(frozen=True)
class Speeds:
    """What a run's parts take by themselves."""

    step: StepTime
    """Of one server, in a rollout."""
    rest: Mapping[str, Series]
    """By stage: all but the decoding of a rollout and the sampling of other stages."""
    sampling: Mapping[str, Series] = field(default_factory=dict)
    """By stage: the sampling of those that are no rollout, shared out evenly among servers."""
    sampled_by: float = 1.0
    """How many servers of the step's speed did that sampling."""
    around: Mapping[str, Series] = field(default_factory=dict)
    """By stage: what the run's own process does after it."""
    turn: float = 0.0
    """What the run's own process takes more for each stage where stages overlap."""
    learned: Mapping[int, float] = field(default_factory=dict)
    """Tokens of a round's answers to which the ``rest`` of stages that learn belongs; what they take is in
    proportion. Empty: it is the same for every round."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where each figure is from, in words."""

    def share(self, round: int, tokens: float) -> float:
        """By which what is learned takes longer than it was measured."""
        if not self.learned:
            return 1.0
        usual = sum(self.learned.values()) / len(self.learned)
        return tokens / self.learned.get(round, usual)
