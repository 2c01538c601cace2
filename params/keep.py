"""What a run leaves on disk of its rounds. Part of no fingerprint: it changes nothing that is made."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import field_validator

from params.base import Config

EVERY = re.compile(r"every ([1-9][0-9]*)")
NAMED = ("last", "best")


class Keep(Config):
    """Which large files of earlier rounds stay once nothing of the run reads them any more.

    Whatever stands here, the last policy and the best one that was evaluated stay, and so do manifests,
    metrics and scores.
    """

    policies: Literal["all"] | tuple[str, ...] = "all"
    """Policies: ``all``, or a list of ``last``, ``best`` (by the held-out mean@n) and ``every N`` rounds."""
    optimiser: Literal["all", "last"] = "all"
    """Moments of the optimiser; they go with their policy."""
    rollouts: Literal["all", "last"] = "all"
    """Answers, and what a round makes of them: the replay buffer, and in ERPD the signal."""
    teachers: Literal["all", "last"] = "all"
    """ERPD: the teachers' weights."""

    @field_validator("policies", mode="before")
    @classmethod
    def _are_rules(cls, given: Any) -> Any:
        if given == "all":
            return given
        rules = tuple(given) if isinstance(given, list | tuple) else ()
        if not rules or not all(isinstance(rule, str) and _is_rule(rule) for rule in rules):
            raise ValueError(
                f"keep.policies: {given}; expected all, or a list of last, best and every N, such as "
                "[last, best, every 10]"
            )
        return rules

    def wants(self, round: int) -> bool:
        """Whether the policy of a round stays for its number."""
        found = [int(match[1]) for rule in self.policies if (match := EVERY.fullmatch(rule))]
        return self.policies == "all" or any(round % every == 0 for every in found)


def _is_rule(rule: str) -> bool:
    return rule in NAMED or EVERY.fullmatch(rule) is not None
