"""Several values in one answer: lists and sets in any order, tuples and intervals in theirs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tasks.rewards.math_values import LONGEST, read_value, unwrapped

_OPEN, _CLOSE = "([{", ")]}"
_SEPARATOR = re.compile(r"\s*(?:\\text\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b)\s*")
_LEADING = re.compile(r"(?:[A-Za-z](?:_\{?\w+\}?)?\s*(?:=|\\in)\s*)(?=[^=]*$)")
_SET = re.compile(r"\\\{(.*)\\\}", re.DOTALL)


@dataclass(frozen=True)
class Items:
    """The texts of several values, in their order."""

    kind: Literal["list", "set", "tuple"]
    parts: tuple[str, ...]
    brackets: str = ""
    """Of a tuple or an interval: how it opens and closes."""

    def __str__(self) -> str:
        opened, closed = {"set": "{}", "list": ("", "")}.get(self.kind) or self.brackets
        return f"a {self.kind} of {len(self.parts)}: {opened}{', '.join(self.parts)}{closed}"


def read_items(text: str) -> Items | None:
    """The values that a text lists; None where it is one, or none."""
    if len(text) > LONGEST or read_value(text) is not None:
        return None
    text = unwrapped(text)
    text = _LEADING.sub("", text, count=1) if text.count("=") <= 1 else text
    if match := _SET.fullmatch(text):
        parts = split(match[1])
        return Items("set", parts) if parts else None
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and _closes_last(text):
        parts = split(text[1:-1])
        return Items("tuple", parts, text[0] + text[-1]) if len(parts) > 1 else None
    parts = split(_SEPARATOR.sub(" , ", text))
    return Items("list", parts) if len(parts) > 1 else None


def split(text: str) -> tuple[str, ...]:
    """The parts between commas or semicolons outside brackets; none where one of them is empty."""
    parts, depth, start = [], 0, 0
    separators = ";" if ";" in text else ","
    for place, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth == 0 and character in separators:
            parts.append(text[start:place].strip())
            start = place + 1
    parts = [part for part in [*parts, text[start:].strip()] if part]
    return tuple(parts)


def _closes_last(text: str) -> bool:
    """Whether the first bracket closes at the very end."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth == 0:
            return place == len(text) - 1
    return False
