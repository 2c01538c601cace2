"""Numbers as JSON and tables hold them."""

from __future__ import annotations

import math

LARGEST = 3.4e38
"""What a column of float32 holds."""


def finite(value: float | None) -> float | None:
    """None for what JSON has no number for."""
    return value if value is not None and math.isfinite(value) else None
