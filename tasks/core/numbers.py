"""Numbers as JSON holds them."""

from __future__ import annotations

import math


def finite(value: float | None) -> float | None:
    """None for what JSON has no number for."""
    return value if value is not None and math.isfinite(value) else None
