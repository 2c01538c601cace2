r"""The part of an answer that holds its value, and its signs as plain LaTeX.

What people and models write for one thing in many ways is one way afterwards: the minus of typography, ``½``,
``x²``, full-width digits, thin spaces, an upright ``\mathrm{e}``.
"""

from __future__ import annotations

import re
import unicodedata

BOXED = "\\boxed"
MARKER = "####"
_SIGNS = {
    **dict.fromkeys("−–‐‑﹣", "-"),
    **dict.fromkeys("×✕✖⨯", r"\times "),
    **dict.fromkeys("·⋅∙", r"\cdot "),
    **dict.fromkeys("÷⁄∕", "/"),
    **dict.fromkeys("°˚", r"^\circ "),
    **dict.fromkeys("π𝜋𝛑", r"\pi "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    "∞": r"\infty ",
    "≈": r"\approx ",
    "∪": r"\cup ",
    "∈": r"\in ",
}
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[a-z]))")
_UPRIGHT = re.compile(r"\\(?:mathrm|text|textrm|operatorname|mathit|mathbf)\s*\{\s*(e|i|\\pi)\s*\}")
_THINKING = "</think>"
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![0-9.,])-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:(?<=[0-9])\.[0-9]+|(?<![0-9])\.[0-9]+)?"
    r"(?:(?<=[0-9])/[0-9]+)?%?"
)


def plain(text: str) -> str:
    """The same in ASCII and LaTeX, as far as it is known."""
    text = _UPRIGHT.sub(_set_apart, text)
    if text.isascii():
        return text
    text = _RAISED.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m[0]) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m[0]) + "}", text)
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    return "".join(map(_sign, text))


def _set_apart(match: re.Match[str]) -> str:
    """The constant, not joined to a letter before or behind it."""
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    return f"{' ' * before.isalpha()}{match[1]}{' ' * after.isalpha()}"


def _sign(character: str) -> str:
    if character.isascii():
        return character
    if character in _SIGNS:
        return _SIGNS[character]
    if "\uff01" <= character <= "\uff5e":  # full-width forms
        return chr(ord(character) - 0xFEE0)
    kind, parts = unicodedata.category(character), unicodedata.decomposition(character).split()
    if kind == "Zs":
        return " "
    if parts[:1] == ["<fraction>"] and "2044" in parts:
        top, _, bottom = "".join(chr(int(code, 16)) for code in parts[1:]).partition("\u2044")
        return rf" \frac{{{top}}}{{{bottom}}} "
    return character


def after_thinking(answer: str) -> str:
    """What follows the thinking, or the content of the last ``<answer>`` tag there."""
    rest = answer.rpartition(_THINKING)[2]
    answer = rest if rest.strip() else answer
    tagged = _TAGGED.findall(answer)
    return tagged[-1] if tagged else answer


def extracted(answer: str, where: str) -> str | None:
    """The part of an answer that holds its value, as ``Config.extract`` says; None where it has none."""
    if where == "last_number":
        numbers = [match[0] for match in _NUMBER.finditer(answer) if any("0" <= c <= "9" for c in match[0])]
        return numbers[-1].replace(",", "") if numbers else None
    boxed = _boxed(answer) if where in ("auto", "boxed") else None
    if boxed is not None or where == "boxed":
        return boxed
    if MARKER in answer:
        line: str = answer.rpartition(MARKER)[2].strip().partition("\n")[0]
        return line if line or where == "hashes" else answer
    return answer if where == "auto" else None


def _boxed(answer: str) -> str | None:
    r"""Of every ``\boxed{...}`` whose braces are closed the one that begins last, with its content."""
    opened: list[int] = []
    start, stop = -1, -1
    for place, character in enumerate(answer):
        if character == "{":
            opened.append(place)
        elif character == "}" and opened:
            began = opened.pop()
            if began > start and answer[max(began - 20, 0) : began].rstrip().endswith(BOXED):
                start, stop = began, place
    return None if start < 0 else BOXED + answer[start : stop + 1]


def depth(text: str) -> int:
    """How many brackets are open at most."""
    deepest = current = 0
    for character in text:
        if character in "([{":
            current += 1
            deepest = max(deepest, current)
        elif character in ")]}":
            current = max(current - 1, 0)
    return deepest
