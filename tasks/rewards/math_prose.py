"""The value that a sentence ends in: its number with sign, unit or per cent, or the list of them."""

from __future__ import annotations

import re
from collections import deque

from tasks.rewards.math_values import CORE, read_value

_BOLD = re.compile(r"\*\*|__")
_PHRASE = re.compile(r"\banswer\b[^.\n]{0,40}?(?:\bis\b|:|=)\s*(.+?)(?=\.(?:\s|$)|\n|$)", re.IGNORECASE)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_LEAD = re.compile(r"(?:(?<![\w)}])|(?<=[a-z]{2})\s|(?<==))\s*[-+]?\s?(?:\\?\$|€|£)?[-+]?$")
_OPERATOR_BEFORE = re.compile(
    r"(?:[+*/^]|\\times|\\cdot|\\frac|\d\s*-|[)}]\s*-|\b[a-zA-Z]\s*-|-\s)\s*(?:\\?\$)?\s*$"
)
_OPERATOR_AFTER = re.compile(
    r"\s*(?:[+*/^=!(]|-\s*\d|-\s*\w\b|\\(?:times|cdot|sqrt|pi|frac|div)|[a-zA-Z](?![a-zA-Z]))"
)
_BETWEEN = re.compile(r"\s*(?:[,;]\s*(?:and|or)?|\band\b|\bor\b)\s*(?:[A-Za-z]\s*=\s*)?(?:-|\\?\$)*\s*")
_PIECE = r"(?:\\[a-zA-Z]+|(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])|\d[\d.,]*|[-+*/^=(){}_!|])"
_RUN = re.compile(rf"{_PIECE}(?:\s*{_PIECE})*")
_WORDS = re.compile(r"(?:\s+|\\?)[A-Za-z%^\\{}./°]+")
LONGEST = 2000
"""Characters at the end of a text that are looked through."""


def value_written(text: str) -> str | None:
    """Where a text states one value last, that text; None where the last thing is more than a number."""
    text = _BOLD.sub("", text[-LONGEST:])
    for phrase in reversed(_PHRASE.findall(text)):
        if read_value(phrase) is not None:
            return str(phrase)
        break
    formula, core = _last(_FORMULA, text), _last(CORE, text)
    if formula and (core is None or core.end() <= formula.end()):
        content = next(group for group in formula.groups() if group is not None)
        return _with_suffix(content, text[formula.end() :])
    if core is None:
        return None
    before, after = text[: core.start()], text[core.end() :]
    if _OPERATOR_BEFORE.search(before) or _OPERATOR_AFTER.match(after):
        return None
    lead = _LEAD.search(before)
    return _with_suffix((lead[0] if lead else "").strip() + core[0], after)


def formula_written(text: str) -> str | None:
    """The formula without dollar signs in which the last number of a text stands; None where is none."""
    text = text[-LONGEST:]
    core = _last(CORE, text)
    runs = [run for run in _RUN.finditer(text) if core and run.start() <= core.start() < run.end()]
    return runs[-1][0] if runs else None


def list_written(text: str) -> str | None:
    """Where a text states several values last, with commas or words between, that text."""
    text = _BOLD.sub("", text[-LONGEST:])
    for phrase in reversed(_PHRASE.findall(text)):
        return str(phrase)
    formula, found = _last(_FORMULA, text), list(CORE.finditer(text))
    if formula and (not found or found[-1].end() <= formula.end()):
        return next(group for group in formula.groups() if group is not None)
    start = len(found) - 1
    while start > 0 and _BETWEEN.fullmatch(text[found[start - 1].end() : found[start].start()]):
        start -= 1
    if not found or start == len(found) - 1:
        return None
    sign = "-" if re.search(r"(?<![\w)}])-$|\s-$", text[: found[start].start()]) else ""
    return sign + text[found[start].start() : found[-1].end()]


def _with_suffix(value: str, rest: str) -> str | None:
    """The value with what follows it in its sentence, as far as that is a known unit, per cent or a base."""
    words: list[str] = []
    place = 0
    while len(words) < 3 and (match := _WORDS.match(rest, place)):
        words.append(match[0])
        place = match.end()
    for count in range(len(words), 0, -1):
        longer = value + "".join(words[:count])
        read = read_value(longer)
        if read is not None and (read.unit or read.percent or read.base):
            return longer
    return value


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)
