r"""The final answer in a solution's text, in the forms that collections of problems use.

``#### 42`` (GSM8K), the last ``\boxed{...}`` (MATH), ``9 (apples)`` (ASDiv), or the text itself.
"""

from __future__ import annotations

import re
from decimal import Decimal

from params.errors import OstinatoError

_BOX = re.compile(r"\\f?box(?:ed)?(?![A-Za-z])\s*")
_AFTER_BOX = re.compile(r"(.*?)\s*(?:\.(?:\s|\$|$)|\$|\\\)|\\\]|\n|$)", re.DOTALL)
"""Up to where the formula ends, for a box without braces."""
_PRINTED_FLOAT = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d{2,3}")
"""As programs print small and large numbers; ``2e-3`` may be 2 times e, less 3."""
_DIGITS = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?")
_WITH_UNIT = re.compile(r"\s*(-?[\d.,/:%$]+(?: \d+/\d+)?)\s*\([^()]*[A-Za-z][^()]*\)\s*")


class Unclear(OstinatoError):
    """Why a text holds no final answer."""


def final_answer(text: str, marker: str, units: bool, last_number: bool = False) -> str:
    """What follows the last ``marker``; else the content of the last box; else the text, or with
    ``last_number`` the last number in it.

    With ``units``, a unit in parentheses behind a number is left out, in each part between semicolons.
    Raises ``Unclear``.
    """
    if marker and marker in text:
        found = text.rpartition(marker)[2].strip().partition("\n")[0].strip()
        if not found:
            raise Unclear(f"nothing follows '{marker}'")
    else:
        found = boxed(text) or (_last_number(text) if last_number else text.strip())
    found = without_units(found) if units else found
    return in_digits(Decimal(found)) if _PRINTED_FLOAT.fullmatch(found) else found


def in_digits(number: Decimal) -> str:
    """A finite number without an exponent, and without a fraction where it is whole."""
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _last_number(text: str) -> str:
    numbers = _DIGITS.findall(text)
    if not numbers:
        raise Unclear("no number in it, of which task.problems.last_number takes the last")
    return str(numbers[-1])


def boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{...}`` or ``\fbox{...}``, its braces matched; None without one.

    Raises ``Unclear`` for an empty one, and one that is not closed.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    if text[start : start + 1] != "{":
        content = _AFTER_BOX.match(text, start)
        if content is None or not content[1]:
            raise Unclear(r"nothing follows the last \boxed")
        return content[1]
    start += 1
    depth, place = 1, start
    while place < len(text) and depth:
        step = {"{": 1, "}": -1}.get(text[place], 0)
        depth += step
        place += 2 if text[place] == "\\" else 1
    if depth:
        raise Unclear(r"the last \boxed{ is not closed")
    found = text[start : place - 1].strip()
    if not found:
        raise Unclear(r"the last \boxed{} is empty")
    return found


def without_units(text: str) -> str:
    """``9 (apples)`` as ``9``; ``5 (red); 3 (blue)`` as ``5, 3``; anything else as it is."""
    found = [_WITH_UNIT.fullmatch(part) for part in text.split(";")]
    return ", ".join(match[1] for match in found if match) if all(found) else text


def number_in(text: object) -> int:
    """The level that ``3``, ``"Level 3"`` or ``"grade 3"`` names; 0 where it names none."""
    digits = re.search(r"\d{1,6}", str(text))
    return int(digits[0]) if digits else 0
