"""The value that a sentence ends in: its number with sign, unit or per cent, or the list of them."""

from __future__ import annotations

import re
from collections import deque

from tasks.rewards.math_values import CORE, read_value

_BOLD = re.compile(r"\*\*|__")
_PHRASE = re.compile(
    r"\banswer\b[^.\n]{0,40}?(?:\b(?:is|be|equals)\b(?:\s+(?:just|simply))?|:|=)\s*(.+?)(?=\.(?:\s|$)|\n|$)",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[,;]\s+(?=[A-Za-z]{2})|\.(?=[A-Za-z])|\s(?:because|since|and|but|which|when|as)\s")
"""Where a sentence goes on behind the answer that it gives."""
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_LEAD = re.compile(r"(?:(?<![\w)}])|(?<=[a-z]{2})\s|(?<==))\s*[-+]?\s?(?:\\?\$|€|£)?[-+]?$")
_OPERATOR_BEFORE = re.compile(
    r"(?:[a-zA-Z](?=$)|[+*/^]|\\times|\\cdot|\\frac|\d\s*-|[)}]\s*-|\b[a-zA-Z]\s*-|(?<![a-z]{2}\s)-\s)"
    r"\s*(?:\\?\$)?\s*$"
)
_OPERATOR_AFTER = re.compile(
    r"\s*(?:[+*/^=(]|-\s*\d|-\s*\w\b|\\(?:times|cdot|sqrt|pi|frac|div))|\s?[xyzn](?![a-zA-Z])|[a-zA-Z](?![a-zA-Z])"
)
_BETWEEN = re.compile(r"\s*(?:[,;]\s*(?:and|or)?|\band\b|\bor\b)\s*(?:[A-Za-z]\s*=\s*)?(?:-|\\?\$)*\s*")
_PIECE = r"(?:\\[a-zA-Z]+|(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])|\d[\d.,]*|[-+*/^=(){}_!|])"
_RUN = re.compile(rf"{_PIECE}(?:\s*{_PIECE})*")
_MATHS = re.compile(r"\d|[-+*/^=]|\\")
_ALL_BOLD = re.compile(r"\*\*(?:[^*\n]*:\s*)?(.+?)\*\*$")
_BOLD_WORDS = re.compile(r"\*\*([^*\n]*[A-Za-z]{3}[^*\n]*)\*\*")
_SQRT = re.compile(r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)")
_PI = re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])")
_WORDS = re.compile(r"(?:\s+|\\?)[A-Za-z%^\\{}./°]+")
LONGEST = 2000
"""Characters at the end of a text that are looked through."""


def value_written(text: str) -> str | None:
    """Where a text states one value last, that text; None where the last thing is more than a number."""
    text = _BOLD.sub("", text[-LONGEST:])
    if phrases := _PHRASE.findall(text):
        for said in (phrases[-1], _CLAUSE.split(phrases[-1], maxsplit=1)[0]):
            if read_value(said) is not None:
                return str(said)
    formula, core = _last(_FORMULA, text), _last(CORE, text)
    if formula and (core is None or core.end() <= formula.end()):
        content = next(group for group in formula.groups() if group is not None)
        return _with_suffix(content, text[formula.end() :])
    if core is None:
        return None
    before, after = text[: core.start()], text[core.end() :]
    if after.startswith("!") and not re.search("[A-Za-z]{3}", text):
        return None  # a factorial; behind a sentence it is an exclamation mark
    if _OPERATOR_BEFORE.search(before) or _OPERATOR_AFTER.match(after):
        return None
    lead = None if before.endswith("- ") else _LEAD.search(before)  # a dash is no minus
    return _with_suffix((lead[0] if lead else "").strip() + core[0], after)


def words_written(text: str) -> str:
    """What a text says its answer is, in words or a letter, without brackets around it; else the text."""
    text = text[-LONGEST:].rstrip(" .\n")
    phrases, bold = _PHRASE.findall(text), _ALL_BOLD.search(text)
    said = phrases[-1] if phrases else bold[1] if bold else text
    return str(said).strip(" .*()[]:")


def formula_written(text: str) -> str | None:
    """The last formula of a text that stands there without dollar signs; None where there is none."""
    bold = _ALL_BOLD.search(text[-LONGEST:].rstrip(" .\n"))
    text = typed(bold[1] if bold else _BOLD_WORDS.sub(r"\1 ", text[-LONGEST:]))
    runs = [run[0].lstrip(" .,").rstrip(" .,=+*/^-") for run in _RUN.finditer(text) if _MATHS.search(run[0])]
    return runs[-1] if runs and len(runs[-1]) <= LONGEST // 4 else None


def typed(text: str) -> str:
    """A formula as people type it, ``3*sqrt(2)`` or ``x**2``, in LaTeX."""
    text = _SQRT.sub(r"\\sqrt{\1}", text)
    text = _PI.sub(r"\\pi ", text)
    return text.replace("**", "^").replace("*", r" \cdot ")


def list_written(text: str) -> str | None:
    """Where a text states several values last, with commas or words between, that text."""
    text = _BOLD.sub("", text[-LONGEST:])
    for phrase in reversed(_PHRASE.findall(text)):
        return str(phrase)
    formulas, found = list(_FORMULA.finditer(text)), list(CORE.finditer(text))
    if formulas and (not found or found[-1].end() <= formulas[-1].end()):
        first = _run_of(formulas, text)
        return ", ".join(next(g for g in f.groups() if g is not None) for f in formulas[first:])
    start = _run_of(found, text)
    if not found or start == len(found) - 1:
        return None
    sign = "-" if re.search(r"(?<![\w)}])-$|\s-$", text[: found[start].start()]) else ""
    return sign + text[found[start].start() : found[-1].end()]


def _run_of(found: list[re.Match[str]], text: str) -> int:
    """Where the run begins that ends the list: matches with nothing but a comma or a word between them."""
    start = len(found) - 1
    while start > 0 and _BETWEEN.fullmatch(text[found[start - 1].end() : found[start].start()]):
        start -= 1
    return start


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
