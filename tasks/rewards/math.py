"""Mathematical answers: 1 for the right value in any of its forms, else 0.

Numbers, and lists, sets and tuples of them, are read exactly (``math_values``, ``math_items``); all else by
``math-verify`` (``math_formula``). What reading costs is bounded by the length and depth that are read at
all, and beyond that by the process around it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tasks.rewards.base import Verdict
from tasks.rewards.math_compare import differs, target_of
from tasks.rewards.math_formula import judge_formula, number_of, read_gold
from tasks.rewards.math_items import Items, read_items
from tasks.rewards.math_options import Config
from tasks.rewards.math_prose import (
    formula_written,
    list_written,
    typed,
    value_written,
    words_written,
)
from tasks.rewards.math_text import BOXED, MARKER, after_thinking, depth, extracted, plain
from tasks.rewards.math_values import TEXT, Value, read_value, stands_for, unwrapped

__all__ = ["Config", "extracted", "weigh"]

# The parser's time is exponential in the depth of braces.
_DEEPEST = 40
_PLAIN = re.compile(r"-?[0-9]{1,200}(?:\.[0-9]{1,200})?")
_NO_VALUE = {"", "?", "-", "n/a", "na", "nan", "nil", "none", "null", "unknown", "tbd", "inf", "infinity"}
"""What tables hold where nobody knows the answer."""
_COMMAND = re.compile(r"\\[A-Za-z]+(?:\{[^{}]*\})?")
_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{3}")
_WORDS = re.compile(r"[A-Za-z]{2,}")
_MOST_WORDS = 4
_WANTED = {"boxed": "closed \\boxed{}", "hashes": "####", "last_number": "number"}


@dataclass(frozen=True)
class Weighed:
    """A verdict, and how it came about."""

    verdict: Verdict
    extracted: str = ""
    """The part of the answer that was read."""
    read: str = ""
    """What it was read as."""
    against: str = ""
    """What the right answer was read as."""


def judge(gold: str, answer: str, config: Config) -> Verdict:
    """Whether ``answer`` ends in the value of ``gold``."""
    return weigh(gold, answer, config).verdict


def explain(gold: str, answer: str, config: Config) -> dict[str, str]:
    """What the verdict stands on."""
    found = weigh(gold, answer, config)
    return {"extracted": found.extracted, "read as": found.read, "compared with": found.against}


def weigh(gold: str, answer: str, config: Config) -> Weighed:
    """``judge``, with what was read on both sides."""
    gold = plain(gold)
    target = target_of(gold)
    if target is None and not read_gold(gold):
        return Weighed(Verdict(None, f"cannot read the right answer '{gold[:80]}'"))
    part = extracted(plain(after_thinking(answer[-config.max_answer_characters :])), config.extract)
    if part is None:
        return Weighed(Verdict(0.0, f"no {_WANTED[config.extract]} in the answer"), against=gold)
    if len(part) > config.max_answer_characters:  # some signs are longer in LaTeX
        return Weighed(Verdict(0.0, "the answer is too long to read"), against=gold)
    if depth(part) > _DEEPEST:
        return Weighed(Verdict(0.0, "the answer is nested too deeply to read"), part, against=gold)
    found = _candidate(part, target)
    if target is not None and (found is not None or isinstance(target, Items)):
        reason = differs(target, found, config) if found is not None else "not several values"
        verdict = Verdict(float(reason is None), reason or None)
        return Weighed(verdict, part, str(found or ""), str(target))
    return _weigh_formula(gold, part, found, config)


def _weigh_formula(gold: str, part: str, found: Value | Items | None, config: Config) -> Weighed:
    """An answer to what is no number that is written out; ``found`` is what the answer writes out."""
    if isinstance(found, Value) and found.form == "decimal":
        exact = number_of(gold)
        if exact is not None and stands_for(found, exact):
            return Weighed(Verdict(1.0), part, str(found), gold)
    words = _words(gold)
    if words is not None and words == _words(words_written(unwrapped(part))):
        return Weighed(Verdict(1.0), part, words, words)
    formula = _formula(part)
    return Weighed(judge_formula(gold, formula, config.worked_out), part, f"the formula {formula}", gold)


def _formula(part: str) -> str:
    """The formula that is to be read: the box as it is typed, or the last formula of a text."""
    if part.startswith(BOXED):
        return typed(part)
    if "$" in part or "\\(" in part or "\\[" in part:
        return part
    run = formula_written(part) or (None if _WORD.search(part) else part.strip())
    return f"${run}$" if run else part


def _words(text: str) -> str | None:
    r"""Words or the letter of a choice, where a text is nothing else: ``\text{Tuesday}``, ``(B)``."""
    text = TEXT.sub(r"\1", unwrapped(text)).strip(" ()")
    words = " ".join(text.split())
    words = words.casefold() if len(words) > 1 else words
    return words if words and all(c.isalpha() or c in " -'" for c in words) else None


def _candidate(part: str, target: Value | Items | None) -> Value | Items | None:
    """What an answer says, where that is written out; None where a formula has to be read."""
    found = read_value(part)
    if found is not None:
        return found
    if part.startswith(BOXED):
        return read_items(part)
    if isinstance(target, Items):
        text = part if not _WORD.search(part) else list_written(part)
        return read_items(text) if text else None
    text = value_written(part)
    return read_value(text) if text else None


def self_answers(gold: str, config: Config) -> tuple[str, ...]:
    """``gold`` as an answer; none for a plain number. Raises ``ValueError`` for a text that is no value."""
    if _PLAIN.fullmatch(gold):
        return ()
    if gold.strip(" .()[]*").casefold() in _NO_VALUE:
        raise ValueError("is no value")
    words = len(_WORDS.findall(_COMMAND.sub(" ", gold)))
    if "$" not in gold and words > (_MOST_WORDS if read_value(plain(gold)) else _MOST_WORDS // 2):
        raise ValueError(
            r"is a text; expected a value, or a solution that ends in '#### value' or \boxed{value} "
            "(task.problems.last_number=true takes its last number)"
        )
    if config.extract == "last_number":
        return (gold,)
    if config.extract == "hashes":
        return (f"{MARKER} {gold}",)
    boxed = f"{BOXED}{{{gold}}}"
    return (boxed,) if config.extract == "boxed" else (boxed, gold)
