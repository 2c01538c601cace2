"""Numbers as answers give them, read exactly: fractions, mixed numbers, powers of ten, per cent, units.

Most right answers are numbers, and of those nothing has to be guessed by a general reader of formulas: what
stands here is a fraction of whole numbers, and two of them are equal or not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from tasks.rewards.math_units import Unit, unit_of

LONGEST = 400
"""Characters of a text that may be a number."""
LARGEST = 400
"""Digits of an exponent's power of ten, up or down."""
SIGNIFICANT = 6
"""Digits from which a rounded decimal stands for a value that has more."""

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+(?! ?\d)|\d+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.\d*)?|\.\d+)"
_PART = r"(?:\{\s*-?\d+(?:\.\d+)?\s*\}|\d)"
_FRACTION = rf"\\[dtc]?frac\s*{_PART}\s*{_PART}"
_POWER = r"\s*(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*(?P<power>\{\s*[-+]?\d+\s*\}|[-+]?\d+)"
CORE = re.compile(
    rf"(?P<mixed>(?P<whole>\d+)\s*(?:(?P<over>{_FRACTION})|(?<=\d)\s+(?P<upper>\d+)\s*/\s*(?P<lower>\d+)))"
    rf"|(?P<frac>{_FRACTION})"
    rf"|(?P<top>{_DECIMAL})\s*/\s*(?P<bottom>{_DECIMAL})"
    rf"|(?P<repeating>(?P<start>\d*\.\d*)\\overline\s*\{{(?P<period>\d+)\}})"
    rf"|(?P<decimal>{_DECIMAL})(?:{_POWER}|[eE](?P<exponent>[-+]?\d+))?",
    re.ASCII,  # of all the world's digits ours alone
)
_CURRENCY = re.compile(r"(?:\\?\$|€|£)\s*")
_SIGN = re.compile(r"[-+]\s*")
_PERCENT = re.compile(r"\s*(?:\\?%|(?:percent|per cent|percentage points?)\b)\s*")
_BASE = re.compile(
    r"\s*(?:_\s*\{?\s*\(?\s*(?:base\s*)?(\w+?)\s*\)?\s*\}?|\(?\s*(?:in )?base[\s-](\w+)\s*\)?)\s*"
)
_BASES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
TEXT = re.compile(r"\\(?:text|mathrm|textrm|mbox|textbf|mathbf|operatorname)\s*\{([^{}]*)\}")
_UNIT = re.compile(
    r"\s*(?:[A-Za-z][A-Za-z.]*|\\?\^\s*\{?\\circ\s*\}?|[A-Za-z]+\^\{?[23]\}?)(?:[ /-][A-Za-z.^{}23]+){0,4}\s*"
)
_NO_UNIT = {
    *("and", "or", "plus", "minus", "times", "mod"),
    *("pi", "sin", "cos", "tan", "log", "ln", "exp", "sqrt"),
}
_NAMED = re.compile(r"\s*(?:[A-Za-z](?:_\{?\w+\}?)?|\\[a-z]+)?\s*(?:=|\\approx)\s*")
_WRAPPED = re.compile(r"\$\$?(.*?)\$\$?|\\\((.*)\\\)|\\\[(.*)\\\]|\\boxed\s*\{(.*)\}|\*\*(.*)\*\*", re.DOTALL)
_NOISE = (
    *((r"\left", ""), (r"\right", ""), (r"\displaystyle", ""), ("{,}", ","), (r"\!", "")),
    (r"\degree", r"^\circ"),
    *((space, " ") for space in (r"\,", r"\;", r"\:", r"\ ", r"\quad", "~", "\n", "\t")),
)

Form = Literal["whole", "decimal", "fraction"]


@dataclass(frozen=True)
class Value:
    """A number that is written out."""

    number: Fraction
    form: Form
    places: int = 0
    """Decimals, of a ``decimal``."""
    digits: int = 0
    """Significant digits, of a ``decimal``."""
    percent: bool = False
    unit: Unit | None = None
    base: str | None = None
    """Of a numeral with a base: its digits and the base are all that counts."""
    numeral: str = ""

    def __str__(self) -> str:
        unit = f" {self.unit[0]}" if self.unit else ""
        if self.base:
            return f"{self.numeral} in base {self.base}"
        return f"{self.number}{' %' if self.percent else ''}{unit}"


def unwrapped(text: str) -> str:
    """Without dollar signs, boxes, bold, spacing commands, and a full stop at the end."""
    for noise, instead in _NOISE:
        text = text.replace(noise, instead)
    text = text.strip()
    while match := _WRAPPED.fullmatch(text):
        inner = next(group for group in match.groups() if group is not None)
        several = text[0] == "$" and "$" in inner.replace(r"\$", "")
        if several or not _balanced(inner):
            break
        text = inner.strip()
    return re.sub(r"\s+", " ", text.rstrip(" .;:,").lstrip(" :"))


def read_value(text: str) -> Value | None:
    """The number that the whole text is, with at most a name before it and a unit behind; None where it is
    more or something else."""
    if len(text) > LONGEST:
        return None
    text = unwrapped(text)
    text = text[match.end() :] if (match := _NAMED.match(text)) else text
    text = re.sub(r"\s*\^\s*", "^", TEXT.sub(r" \1 ", text)).strip()
    text = re.sub(r"^\((\d+)\)(?=\s*_)", r"\1", text)
    sign, money, place = "", "", 0
    for _ in range(2):  # -$5 and $-5
        if not money and (match := _CURRENCY.match(text, place)):
            money, place = match[0].strip().lstrip("\\"), match.end()
        elif not sign and (match := _SIGN.match(text, place)):
            sign, place = match[0][0], match.end()
    core = CORE.match(text, place)
    value = _number(core) if core else None
    if core is None or value is None:
        return None
    value = replace(value, number=-value.number if sign == "-" else value.number)
    return _with_suffix(value, core[0], text[core.end() :], money)


def _with_suffix(value: Value, numeral: str, rest: str, money: str) -> Value | None:
    if not rest.strip():
        return replace(value, unit=unit_of(money)) if money else value
    if match := _PERCENT.fullmatch(rest):
        return replace(value, percent=True)
    if (match := _BASE.fullmatch(rest)) and value.form == "whole":
        named = (match[1] or match[2]).lower()
        base = str(_BASES.index(named) + 2) if named in _BASES else named
        return replace(value, base=base, numeral=numeral.replace(",", "")) if base.isdigit() else None
    words = rest.strip()
    known = unit_of(words)
    apart = rest[0] == " " or (known is not None and len(words) > 1)
    if not _UNIT.fullmatch(rest) or not apart or {w.lower() for w in words.split()} & _NO_UNIT:
        return None
    if known is None and max(map(len, re.findall(r"[A-Za-z]+", words)), default=0) < 3:
        return None  # 2 x is no two of a unit
    return replace(value, unit=unit_of(money) if money else known)


def _number(match: re.Match[str]) -> Value | None:
    if match["mixed"]:
        part = _fraction(match["over"]) if match["over"] else _ratio(match["upper"], match["lower"])
        return None if part is None or not 0 < part < 1 else Value(int(match["whole"]) + part, "fraction")
    if match["frac"]:
        part = _fraction(match["frac"])
        return None if part is None else Value(part, "fraction")
    if match["top"]:
        part = _ratio(match["top"], match["bottom"])
        return None if part is None else Value(part, "fraction")
    if match["repeating"]:
        start, period = match["start"], match["period"]
        places = len(start.partition(".")[2])
        tail = Fraction(int(period), (10 ** len(period) - 1) * 10**places)
        return Value(_exact(start if any(map(str.isdigit, start)) else "0") + tail, "fraction")
    return _decimal(match)


def _decimal(match: re.Match[str]) -> Value | None:
    written = match["decimal"]
    number, places = _exact(written), len(written.partition(".")[2])
    exponent = int((match["power"] or match["exponent"] or "0").strip("{} "))
    if abs(exponent) > LARGEST:
        return None
    number, places = number * Fraction(10) ** exponent, places - exponent
    digits = len(re.sub(r"[^\d]", "", written).lstrip("0"))
    return Value(number, "decimal" if places > 0 else "whole", max(places, 0), digits)


def _fraction(text: str) -> Fraction | None:
    top, bottom = re.findall(_PART, text.partition("frac")[2])
    return _ratio(top.strip("{} "), bottom.strip("{} "))


def _ratio(top: str, bottom: str) -> Fraction | None:
    below = _exact(bottom)
    return _exact(top) / below if below else None


def _exact(written: str) -> Fraction:
    return Fraction(written.replace(",", "").replace(" ", "").rstrip(".") or "0")


def _balanced(text: str) -> bool:
    """Whether no bracket closes that was not opened: ``{1}, {2}`` is no content of one pair."""
    depth = 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


def stands_for(rounded: Value, exact: Fraction) -> bool:
    """Whether a decimal is a value with more decimals, rounded, with enough digits to tell it."""
    if rounded.form != "decimal" or rounded.digits < SIGNIFICANT:
        return False
    scaled = exact * 10**rounded.places
    return scaled.denominator > 1 and bool(abs(rounded.number * 10**rounded.places - scaled) * 2 <= 1)
