"""Ours: the exact answer to "towards the teacher, but no further than the budget", over the whole vocabulary.

    argmin_pi KL(pi | pi_E) + mu KL(pi | pi_0) = pi_eta, in proportion to pi_0^(1 - eta) pi_E^eta

with one eta for the budget on average over the states, or one for each state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from algorithms.erpd import geometric_target
from algorithms.geometric import between, divergences, eta_of
from params.distil import Student
from tasks.core.stage import Job
from tasks.erpd.beside import kept_states
from tasks.erpd.training import Material
from tasks.policy.full_vocabulary import PolicyStates, Target
from tasks.policy.policy import Policy

ETAS = tuple((place / 16) ** 2 for place in range(17))
"""Where the divergence's curve is measured; it is nearly a parabola."""


class LogRatio:
    """The base, and the whole log-ratio of teachers to their reference, at every token of some answers."""

    def __init__(
        self,
        base: PolicyStates,
        teachers: Mapping[str, PolicyStates],
        reference: PolicyStates | None,
        factors: Mapping[str, float],
    ) -> None:
        """Without a ``reference`` it is the base."""
        self.base, self._teachers, self._reference, self._factors = base, teachers, reference, factors

    def at(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """log pi_0 and the log-ratio, both [t, V]."""
        origin = self.base.logp(index)
        to = self._reference.logp(index) if self._reference else origin
        found = torch.zeros_like(origin)
        for name, teacher in sorted(self._teachers.items()):
            found += self._factors[name] * (teacher.logp(index) - to)
        return origin, found


@contextmanager
def log_ratio_states(
    job: Job,
    policy: Policy,
    material: Material,
    folders: tuple[Path | None, Mapping[str, Path], Path | None],
    factors: Mapping[str, float],
) -> Iterator[LogRatio]:
    """The states of base, teachers and reference, the last only where there is one, in files of their own for
    as long as they are used."""
    written: list[Path] = []

    def kept(folder: Path | None) -> PolicyStates:
        place = job.context.scratch / f"states-{job.round}-{len(written)}"
        place.unlink(missing_ok=True)
        written.append(place)
        given = (material.prompts, material.responses, job.params.rollout.temperature)
        return kept_states(policy, folder, *given, place)

    base, teachers, reference = folders
    try:
        yield LogRatio(
            kept(base),
            {name: kept(folder) for name, folder in teachers.items()},
            kept(reference) if reference else None,
            factors,
        )
    finally:
        for place in written:
            place.unlink(missing_ok=True)


def target(log_ratio: LogRatio, student: Student, budget: float) -> tuple[Target, float | None]:
    """Positions to log pi_eta there, for the budget, and eta where it is one for all."""
    if student.spread == "state":

        @torch.no_grad()
        def each(index: Tensor) -> Tensor:
            base, ratio = log_ratio.at(index)
            return geometric_target(base, base + ratio, budget)[0]

        return each, None
    eta = _common_eta(log_ratio.base, log_ratio.at, budget)

    @torch.no_grad()
    def same(index: Tensor) -> Tensor:
        base, ratio = log_ratio.at(index)
        return between(base, ratio, base.new_full(base.shape[:1], eta))

    return same, eta


@torch.no_grad()
def _common_eta(
    base: PolicyStates, parts: Callable[[Tensor | slice], tuple[Tensor, Tensor]], budget: float
) -> float:
    """The eta at which the mean divergence over the positions is the budget."""
    total, count = torch.zeros(len(ETAS), dtype=torch.float64), 0
    for at in base.chunks():
        origin, ratio = parts(at)
        found = divergences(origin, origin + ratio, ETAS)
        total, count = total + found.sum(0).cpu(), count + len(found)
    return eta_of(ETAS, (total / max(count, 1)).tolist(), budget)
