"""Queries as text: where one stands in an answer, where it ends, and whether it orders its result.

SQLite's own rules for tokens (https://www.sqlite.org/lang_keywords.html, tokenize.c) decide, so that
comments, strings and quoted names hide nothing. Every scan is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\n\f\r]+)
    | (?P<comment>--[^\n]*|/\*(?:[^*]|\*(?!/))*(?:\*/|\Z))
    | (?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
    | (?P<open>['"`\[].*\Z)
    | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
    | (?P<number>[0-9][A-Za-z0-9_.]*)
    | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_FENCE = re.compile(r"```([A-Za-z0-9_+-]*)(.*?)(?:```|\Z)", re.S)
_NAME = r"""(?:"[^"\n]+"|`[^`\n]+`|\[[^\]\n]+\]|[^\W\d][\w$]*)"""
_START = re.compile(
    r"^[ \t>*-]*(?:[A-Za-z ]{1,40}:[ \t]*)?(?="
    r"(?:SELECT|VALUES)\b"
    rf"|WITH\s+(?:RECURSIVE\s+)?{_NAME}\s*(?:\([^()]*\)\s*)?AS\s+(?:(?:NOT\s+)?MATERIALIZED\s*)?\("
    rf"|WITH\s+(?:RECURSIVE\s+)?{_NAME}\s*(?:\([^()]*\)\s*)?AS\("
    r")",
    re.M | re.I,
)
_QUERY = ("SELECT", "WITH", "VALUES")
_JOINS = ("UNION", "ALL", "EXCEPT", "INTERSECT")


@dataclass(frozen=True)
class Token:
    """One token of SQLite's, without spaces and comments."""

    kind: str
    """``word``, ``quoted``, ``number``, ``sign``, or ``open``: a quotation that does not end."""
    text: str
    start: int
    depth: int
    """Parentheses that are open before it; one that closes counts as outside."""
    lines: int
    """Line ends before it: 1 where it begins a line, 2 or more after an empty one."""

    @property
    def keyword(self) -> str:
        """The word in capitals; "" for anything else."""
        return self.text.upper() if self.kind == "word" else ""


def tokens(text: str, start: int = 0) -> Iterator[Token]:
    """The tokens of ``text`` from ``start`` on."""
    depth, lines = 0, 0
    for match in _TOKEN.finditer(text, start):
        kind, piece = match.lastgroup or "", match[0]
        if kind in ("space", "comment"):
            lines = max(lines, piece.count("\n") if kind == "space" else 0)
            continue
        if piece == ")" and kind == "sign":
            depth -= 1
        yield Token(kind, piece, match.start(), depth, lines)
        lines = 0
        if piece == "(" and kind == "sign":
            depth += 1


def find_query(answer: str) -> str | None:
    """The query that an answer gives: of several the last one; None where there is none.

    Fenced blocks that are marked ``sql`` or ``sqlite``, or unmarked and begin as a query, come before bare
    text. The last fence may lack its end. A bare query begins a line (after ``Query:`` or the like) with
    SELECT, VALUES, or WITH name AS (, and goes on to a semicolon and the end of its line, to an empty line
    outside parentheses, to the next query or to the end.
    """
    fenced = None
    for fence in _FENCE.finditer(answer):
        language, body = fence[1].lower(), fence[2]
        if language.upper() in _QUERY:
            language, body = "", fence[1] + body
        first = next((token.keyword for token in tokens(body)), "")
        if language in ("sql", "sqlite") or (language == "" and first in _QUERY):
            fenced = body
    if fenced is not None:
        return fenced.strip()
    found, place = None, 0
    while (match := _START.search(answer, place)) is not None:
        end = _end(answer, match.end())
        found = answer[match.end() : end].strip()
        place = max(end, match.end() + 1)
    return found


def _end(text: str, start: int) -> int:
    """Where the bare query that begins at ``start`` ends."""
    before, opened = "", False
    for token in tokens(text, start):
        if token.start > start and token.depth <= 0:
            if token.lines > 1 and token.text != ")":
                return token.start
            if token.text == ";":
                newline = text.find("\n", token.start)
                return newline if newline >= 0 else len(text)
            fresh = token.keyword in _QUERY and token.lines == 1
            if fresh and before not in _JOINS and not opened:
                return token.start
        if token.keyword in ("WITH", "SELECT") and token.depth == 0:
            opened = token.keyword == "WITH"
        before = token.keyword
    return len(text)


def problem_of(query: str) -> str | None:
    """Why a text cannot be run: it is not one statement that begins as a query does. None where it can."""
    first, ended = "", False
    for token in tokens(query):
        if ended:
            return "several statements; expected one"
        first = first or token.keyword or token.text
        ended = token.text == ";"
        if token.kind == "open":
            return "a quotation does not end"
    if first not in _QUERY:
        return "not a query; expected SELECT, WITH or VALUES" if first else "no query in the answer"
    return None


@lru_cache(maxsize=4096)
def orders(query: str) -> bool:
    """Whether the statement itself, not a part of it in parentheses, has an ORDER BY.

    Subqueries, common tables, windows and ordered aggregates all stand in parentheses in SQLite's grammar,
    and ORDER is a reserved word: as a name it is quoted.
    """
    words = (token.keyword if token.depth == 0 else "" for token in tokens(query))
    return ("ORDER", "BY") in pairwise(words)


def without_distinct(query: str) -> str:
    """The query less its DISTINCT keywords."""
    pieces, place = [], 0
    for token in tokens(query):
        if token.keyword == "DISTINCT":
            pieces.append(query[place : token.start])
            place = token.start + len(token.text)
    return "".join([*pieces, query[place:]])
