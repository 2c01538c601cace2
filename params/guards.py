"""Rules that a run must keep to while it goes: a figure beyond a bound warns, or stops the run."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, model_validator

from params.base import Config


class Guard(Config):
    """One rule on one figure."""

    figure: str
    """``STAGE.NAME``, as in a comparison's ``curves.parquet``: ``update.entropy``, ``evaluate.mean_at_n``."""
    below: float | None = None
    """The rule is broken where the figure is less than this."""
    above: float | None = None
    """The rule is broken where it is more."""
    rounds: PositiveInt = 1
    """How many times in a row it must be, as often as the stage runs."""
    then: Literal["warn", "stop"] = "warn"
    """What happens: a word in the log and on the report; or the run also ends as failed, and keeps all."""

    @model_validator(mode="after")
    def _is_a_rule(self) -> Guard:
        if (self.below is None) == (self.above is None):
            raise ValueError(f"guards: {self.figure}: expected one of below and above")
        if "." not in self.figure:
            raise ValueError(f"guards: '{self.figure}'; expected STAGE.NAME, such as update.entropy")
        return self

    def broken(self, value: float) -> bool:
        """Whether the figure is beyond the bound."""
        return value < self.below if self.below is not None else value > (self.above or 0.0)

    def words(self) -> str:
        """``below 0.1``, ``above 0.5``."""
        return f"below {self.below:g}" if self.below is not None else f"above {self.above:g}"
