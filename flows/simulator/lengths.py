"""How long the responses of a round are: as measured, drawn from a log-normal distribution, or all alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flows.simulator.pool import Groups
from tasks.core.seeds import numpy_generator

Measured = list[NDArray[np.int64]]
"""A round's lengths, by group."""


@dataclass(frozen=True)
class Lengths:
    """Of responses, in tokens, cut at the round's limit."""

    mean: float
    """Of the distribution, before the cut."""
    sigma: float = 0.0
    """Of the logarithm; 0: all are as long as the mean."""
    measured: Mapping[int, Measured] = field(default_factory=dict)
    """By round, of an earlier run; where there are any, those are taken."""

    def of(self, round: int, problems: int, samples: int, most: int, seed: int) -> Groups:
        """Those of a round: of a measured one of the same size as they were; else groups are drawn, with
        their own lengths in another order or, where they are of another size, again from among them."""
        draws = numpy_generator(seed, "simulate", round, "lengths")
        if self.measured:
            known = self.measured.get(round)
            if known is None or [len(group) for group in known] != [samples] * problems:
                known = self._drawn(draws, problems, samples)
        elif self.sigma:
            middle = math.log(self.mean) - self.sigma**2 / 2
            known = list(np.exp(draws.normal(middle, self.sigma, (problems, samples))))
        else:
            known = [np.full(samples, self.mean)] * problems
        return [np.clip(np.rint(group), 1, most).astype(int).tolist() for group in known]

    def _drawn(self, draws: np.random.Generator, problems: int, samples: int) -> Measured:
        groups = [group for _, known in sorted(self.measured.items()) for group in known]
        chosen = [groups[place] for place in draws.integers(len(groups), size=problems)]
        return [
            draws.permutation(group) if len(group) == samples else draws.choice(group, samples)
            for group in chosen
        ]
