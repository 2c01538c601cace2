r"""The final answer in a solution's text, in the forms that collections of problems use.

``#### 42`` (GSM8K), the last ``\boxed{...}`` (MATH), ``9 (apples)`` (ASDiv), or the text itself.
"""

from __future__ import annotations

import re

from params.errors import OstinatoError

_BOX = re.compile(r"\\f?box(?:ed)?\s*(\{|[^\s{$a-z])")
_WITH_UNIT = re.compile(r"\s*(-?[\d.,/:%$]+(?: \d+/\d+)?)\s*\([^()]*[A-Za-z][^()]*\)\s*")


class Unclear(OstinatoError):
    """Why a text holds no final answer."""


def final_answer(text: str, marker: str, units: bool) -> str:
    """What follows the last ``marker``; else the content of the last box; else the text.

    With ``units``, a unit in parentheses behind a number is left out, in each part between semicolons.
    Raises ``Unclear``.
    """
    if marker and marker in text:
        found = text.rpartition(marker)[2].strip()
        if not found:
            raise Unclear(f"nothing follows '{marker}'")
    else:
        found = boxed(text) or text.strip()
    return without_units(found) if units else found


def boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{...}`` or ``\fbox{...}``, its braces matched; None without one.

    Raises ``Unclear`` for an empty one, and one that is not closed.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    last = boxes[-1]
    if last[1] != "{":
        return last[1]
    depth, place = 1, last.end()
    while place < len(text) and depth:
        step = {"{": 1, "}": -1}.get(text[place], 0)
        depth += step
        place += 2 if text[place] == "\\" else 1
    if depth:
        raise Unclear(r"the last \boxed{ is not closed")
    found = text[last.end() : place - 1].strip()
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
