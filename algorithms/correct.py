"""When an answer is right."""

from __future__ import annotations

CORRECT = 1.0
"""An answer is right when its reward is at least this."""
