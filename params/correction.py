"""How the update corrects for an engine whose probabilities are not the trainer's."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, model_validator

from params.base import Config

Kind = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric_mask"]

_BOUNDS: dict[Kind, tuple[float, float]] = {
    "token_truncate": (0.0, 2.0),
    "token_mask": (0.5, 5.0),
    "sequence_truncate": (0.0, 2.0),
    "sequence_mask": (0.0, 3.0),
    "geometric_mask": (0.999, 1.001),
}


class Correction(Config):
    """What a token of a fresh response weighs in the objective. See ``algorithms.mismatch``."""

    kind: Kind = "token_truncate"
    """Truncate the ratio of trainer and engine, or mask by it: that of a token, its product over a response,
    or its geometric mean."""
    low: PositiveFloat | None = None
    """Masks only: the smallest ratio that is kept; null: 0.5 for ``token_mask``, none for ``sequence_mask``,
    0.999 for ``geometric_mask``."""
    high: PositiveFloat | None = None
    """The largest ratio; null: 2 for truncation, 5, 3 and 1.001 for the masks in that order."""

    @model_validator(mode="after")
    def _in_order(self) -> Correction:
        if self.low is not None and self.kind.endswith("_truncate"):
            raise ValueError(f"method.correction: {self.kind} has no lower bound; expected low: null")
        low, high = self.bounds()
        if low >= high:
            raise ValueError(f"method.correction: low is {low:g} and high {high:g}; expected low below high")
        return self

    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest ratio."""
        low, high = _BOUNDS[self.kind]
        return low if self.low is None else self.low, high if self.high is None else self.high
