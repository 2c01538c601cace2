"""What a run may spend: rounds, sampled tokens or minutes; it ends with the round that reaches it."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt, model_validator

from params.base import BadInput, Config, nearest, validate

MOST_ROUNDS = 10_000
"""Rounds at which a run ends that has not spent its tokens or minutes by then."""


class Budget(Config):
    """A limit in one unit. Measuring a policy on held-out problems is not part of what it spends."""

    rounds: PositiveInt | None = None
    """Rounds of rollout, replay and update."""
    tokens: PositiveInt | None = None
    """Sampled tokens, those of answers that a method drops again included."""
    minutes: PositiveFloat | None = None
    """Minutes of stage time, of the run's own stages: what comes from the cache counts what it took once."""

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if sum(value is not None for value in (self.rounds, self.tokens, self.minutes)) != 1:
            raise ValueError("budget: expected one of rounds, tokens, minutes")
        return self

    def reached(self, rounds: int, tokens: float, seconds: float) -> bool:
        """Whether a run that took so much ends here."""
        if self.rounds is not None:
            return rounds >= self.rounds
        if self.tokens is not None:
            return tokens >= self.tokens
        return seconds >= 60 * (self.minutes or 0.0)

    def words(self) -> str:
        """``20 rounds``, ``200,000 sampled tokens``, ``10 minutes``."""
        if self.rounds is not None:
            return f"{self.rounds:,} round{'s' * (self.rounds != 1)}"
        if self.tokens is not None:
            return f"{self.tokens:,} sampled tokens"
        return f"{self.minutes:g} minute{'s' * (self.minutes != 1)} of stage time"


def read_budget(text: str) -> Budget:
    """``rounds=20``, ``tokens=200000`` or ``minutes=10``. Raises ``BadInput``."""
    unit, equals, amount = text.partition("=")
    if not equals:
        raise BadInput(f"--budget {text}: expected rounds=20, tokens=200000 or minutes=10")
    if unit not in Budget.model_fields:
        raise BadInput(f"--budget {text}: no unit '{unit}'{nearest(unit, Budget.model_fields)}")
    return validate(Budget, {unit: amount.replace("_", "")}, "--budget")
