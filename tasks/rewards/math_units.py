"""Units that verdicts know: by dimension and factor, whichever way they are written."""

from __future__ import annotations

from fractions import Fraction

Unit = tuple[str, Fraction]
"""Dimension, and how many of the dimension's first unit it is."""

_TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "length": {
        "1": ("m", "meter", "meters", "metre", "metres"),
        "1/1000": ("mm", "millimeter", "millimeters", "millimetre", "millimetres"),
        "1/100": ("cm", "centimeter", "centimeters", "centimetre", "centimetres"),
        "1000": ("km", "kilometer", "kilometers", "kilometre", "kilometres"),
        "127/5000": ("in", "inch", "inches"),
        "381/1250": ("ft", "foot", "feet"),
        "1143/1250": ("yd", "yard", "yards"),
        "201168/125": ("mi", "mile", "miles"),
    },
    "time": {
        "1": ("s", "sec", "secs", "second", "seconds"),
        "60": ("min", "mins", "minute", "minutes"),
        "3600": ("h", "hr", "hrs", "hour", "hours"),
        "86400": ("day", "days"),
        "604800": ("week", "weeks"),
    },
    "mass": {
        "1": ("g", "gram", "grams"),
        "1/1000": ("mg", "milligram", "milligrams"),
        "1000": ("kg", "kilogram", "kilograms"),
        "45359237/100000": ("lb", "lbs", "pound", "pounds"),
        "45359237/1600000": ("oz", "ounce", "ounces"),
    },
    "volume": {
        "1": ("l", "L", "liter", "liters", "litre", "litres"),
        "1/1000": ("ml", "mL", "milliliter", "milliliters", "millilitre", "millilitres"),
    },
    "dollars": {"1": ("$", "usd", "USD", "dollar", "dollars"), "1/100": ("cent", "cents", "¢")},
    "euros": {"1": ("€", "euro", "euros", "EUR")},
    "angle": {"1": (r"^\circ", "degree", "degrees", "deg")},
}
UNITS: dict[str, Unit] = {
    name: (dimension, Fraction(factor))
    for dimension, units in _TABLE.items()
    for factor, names in units.items()
    for name in names
}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}


def unit_of(words: str) -> Unit | None:
    """The unit that these words name, ``square cm`` and ``cm^2`` included; None where it is not known."""
    parts = words.replace("{", "").replace("}", "").replace(".", " ").split()
    power = 1
    if parts and parts[0].lower() in _POWERS:
        power = _POWERS[parts.pop(0).lower()]
    if not parts:
        return None
    name, _, exponent = parts[0].partition("^") if not parts[0].startswith("^") else (parts[0], "", "")
    if exponent in ("2", "3"):
        power = int(exponent)
    found = UNITS.get(name) or UNITS.get(name.lower())
    return None if found is None or len(parts) > 1 else (f"{found[0]}^{power}", found[1] ** power)
