"""Other judges of mathematics, as ``function(gold, answer) -> float``, for math_judge.py.

Those of verl are written anew from what their rules do: GSM8K's takes the number after the last ``####``,
MATH's the last box, and compares texts that are normalised as Hendrycks et al. (2021) did. TRL's is
math-verify with its configuration. Both that use math-verify are given the gold in dollar signs, without
which it reads little bare LaTeX; its users must see to that. Imported in the judging processes alone.
"""

from __future__ import annotations

import logging
import re

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

logging.getLogger("math_verify").setLevel(logging.ERROR)  # that its alarms are off: the process is bounded

_HASHES = re.compile(r"#### (-?[0-9.,]+)")
_NUMBER = re.compile(r"-?[0-9][0-9,]*(?:\.[0-9]+)?|-?\.[0-9]+")
_DROPPED = ("\n", r"\!", r"\left", r"\right", r"^{\circ}", r"^\circ", r"\$")
_ONE = r"(?:\{[^{}]*\}|[^{}\s])"
_FRACTION = re.compile(rf"\\frac({_ONE})({_ONE})")
_SLASH = re.compile(r"(-?(?:0|[1-9]\d*))/(-?(?:0|[1-9]\d*))")


def math_verify(gold: str, answer: str) -> float:
    """math-verify as its documentation shows it: both parsed, then compared."""
    return _verified(gold, parse(answer, parsing_timeout=None))


def trl(gold: str, answer: str) -> float:
    """TRL's ``accuracy_reward``: LaTeX alone, boxes first. A gold that is not read is no reward, here 0."""
    latex = LatexExtractionConfig(
        normalization_config=NormalizationConfig(units=True),
        boxed_match_priority=0,
        try_extract_without_anchor=False,
    )
    given = parse(answer, extraction_config=[latex], extraction_mode="first_match", parsing_timeout=None)
    return _verified(gold, given)


def _verified(gold: str, given: list[object]) -> float:
    right = parse(gold if "$" in gold.replace(r"\$", "") else f"${gold}$", parsing_timeout=None)
    return float(bool(right) and verify(right, given, timeout_seconds=None))


def verl_gsm8k(gold: str, answer: str) -> float:
    """The number after the last ``#### ``, without commas, is the gold's text."""
    found = _HASHES.findall(answer)
    return float(bool(found) and found[-1].replace(",", "") == gold)


def verl_math(gold: str, answer: str) -> float:
    """What the last box holds is the gold, as normalised texts."""
    box = _last_box(answer)
    return float(box is not None and _normal(box) == _normal(gold))


def last_number(gold: str, answer: str) -> float:
    """The last number in digits equals the last of the gold."""
    numbers = [_NUMBER.findall(text) for text in (gold, answer)]
    if not all(numbers):
        return 0.0
    right, given = (float(found[-1].replace(",", "")) for found in numbers)
    return float(right == given)


def _last_box(answer: str) -> str | None:
    _, found, rest = answer.rpartition(r"\boxed{")
    if not found:
        return None
    depth = 1
    for place, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[:place]
    return None


def _normal(text: str) -> str:
    for piece in _DROPPED:
        text = text.replace(piece, "")
    text = text.replace(r"\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    text = text.partition(r"\text{ ")[0].replace(r"\%", "")
    text = re.sub(r"(^|[ {])\.", r"\g<1>0.", text)
    name, equals, value = text.partition("=")
    if equals and len(name) <= 2 and "=" not in value:
        text = value
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text).replace(" ", "")
    text = _FRACTION.sub(lambda found: rf"\frac{_braced(found[1])}{_braced(found[2])}", text)
    if text == "0.5":
        return r"\frac{1}{2}"
    slash = _SLASH.fullmatch(text)
    return rf"\frac{{{slash[1]}}}{{{slash[2]}}}" if slash else text


def _braced(part: str) -> str:
    return part if part.startswith("{") else f"{{{part}}}"
