"""Figures, times and counts as people read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ABSENT = "–"
MINUS = "−"


def percent(share: float | None, digits: int = 1) -> str:
    """``0.783`` as ``78.3%``."""
    return ABSENT if share is None else f"{100 * share:.{digits}f}%".replace("-", MINUS)


def number(value: float | None, digits: int = 3) -> str:
    """A figure with so many significant digits, without exponents where a person would not use one."""
    if value is None:
        return ABSENT
    sign, size = MINUS if value < 0 else "", abs(value)
    if size == 0 or 1e-4 <= size < 1e6:
        return sign + (f"{size:,.{digits}g}" if size < 1000 else f"{size:,.0f}")
    mantissa, _, exponent = f"{size:.{digits - 1}e}".partition("e")
    return f"{sign}{mantissa}e{int(exponent)}"


def points(change: float | None) -> str:
    """A change in a share as signed percentage points, without the word."""
    if change is None:
        return ABSENT
    rounded = round(100 * change, 1)
    return f"{'+' if rounded > 0 else MINUS if rounded < 0 else ''}{abs(rounded):.1f}"


def signed(value: float, show: Callable[[float], str] = number) -> str:
    """A figure with its sign, a plus as well."""
    return f"{'+' if value > 0 else MINUS if value < 0 else ''}{show(abs(value))}"


def duration(seconds: float) -> str:
    """``372`` as ``6 min 12 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def count(amount: int, one: str) -> str:
    """``1 round``, ``20 rounds``, ``12,288 answers``."""
    return f"{amount:,} {one}{'' if amount == 1 else 's'}"


def was(amount: int) -> str:
    """The verb for so many things."""
    return "was" if amount == 1 else "were"


def value(given: object) -> str:
    """A parameter as a person would write it in YAML."""
    if given is None:
        return "null"
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, (list, tuple)):
        return "[" + ", ".join(value(item) for item in given) + "]"
    if isinstance(given, dict):
        return "{" + ", ".join(f"{key}: {value(item)}" for key, item in given.items()) + "}"
    return f"{given:g}" if isinstance(given, float) else str(given)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    found: dict[str, Any] = {}
    for key, item in values.items():
        if isinstance(item, dict) and item:
            found |= flat(item, f"{prefix}{key}.")
        else:
            found[prefix + key] = item
    return found
