"""How far the engine was from the trainer before an update: gathered from what the update computes anyway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from algorithms.mismatch import mismatch
from params.schema import Params
from tasks.core.numbers import finite
from tasks.update.responses import Responses


class Mismatch:
    """Gathers the trainer's log-probabilities of responses, as long as the policy has not moved."""

    def __init__(self, given: Responses, params: Params, round: int) -> None:
        self._given = given
        self._behind = _policy_age(given.age, round, params.rollout.lag)
        self._found: dict[int, tuple[Tensor, Tensor]] = {}

    def look(self, members: Sequence[int], logp: Tensor) -> None:
        """Take in the trainer's log-probabilities, end to end, NaN where they are not known, of these
        responses; those of a response that is known already say the same. What joins this round's answers
        and is no older is one of them again, or was not sampled by an engine: it is left out."""
        given = self._given
        sampled = [given.sampled_logp[i] for i in members]
        for i, own, engine in zip(members, logp.split([len(part) for part in sampled]), sampled, strict=True):
            known = ~own.isnan()
            counts = bool(given.fresh[i]) or int(given.age[i]) > 0
            if counts and i not in self._found and bool(known.any()):
                self._found[i] = (own[known], engine[known])

    def knows_fresh(self) -> bool:
        """Whether it has seen a response of this round."""
        return any(bool(self._given.fresh[i]) for i in self._found)

    def metrics(self) -> dict[str, Any]:
        """The figures of ``algorithms.mismatch`` over this round's responses, and as ``NAME_by_age`` those of
        all responses by the rounds between the policy that sampled them and the one that learns."""
        said: dict[str, Any] = self._over([i for i in self._found if bool(self._given.fresh[i])])
        ages = sorted({int(self._behind[i]) for i in self._found})
        by_age = {
            str(age): self._over([i for i in self._found if int(self._behind[i]) == age]) for age in ages
        }
        for name in next(iter(by_age.values()), {}):
            said[f"{name}_by_age"] = {age: figures[name] for age, figures in by_age.items()}
        return said

    def _over(self, members: Sequence[int]) -> dict[str, float | None]:
        if not members:
            return {}
        parts = [self._found[i] for i in members]
        lengths = torch.tensor([len(own) for own, _ in parts])
        trainer, engine = (torch.cat([part[side] for part in parts]) for side in (0, 1))
        figures = mismatch(trainer, engine, torch.arange(len(parts)).repeat_interleave(lengths))
        return {name: finite(value) for name, value in figures.items()}


def _policy_age(age: Tensor, round: int, lag: int) -> Tensor:
    """[S] rounds by which the policy that sampled a response is behind the one before this update, for
    responses of ``age`` [S] rounds; a run's first rounds sample from its base, whatever the ``lag``."""
    return round - 1 - (round - age - 1 - lag).clamp(min=0)
