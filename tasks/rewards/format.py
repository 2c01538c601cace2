"""Whether an answer has its parts in tags, one after the other: 1 if so, else 0 with what is amiss.

With the tags ``think`` and ``answer``, ``<think>...</think><answer>...</answer>`` and nothing else, as in
DeepSeek-R1 (arXiv 2501.12948, section 2.2.2, "format rewards"). Space around a tag does not count.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from tasks.rewards.base import Bounds, Group, Verdict

Tag = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]


class Config(Bounds):
    """Which tags."""

    tags: Annotated[tuple[Tag, ...], Field(min_length=1)] = ("think", "answer")
    """Each opened and closed once, in this order."""
    text_after: bool = False
    """Text may, and must, follow the last tag, as after a ``think`` alone."""
    opened: bool = False
    """The prompt has opened the first tag already, as some chat templates do."""


def judge_group(group: Group, config: Config) -> list[Verdict]:
    """1 or 0 of all that the model said, its thinking too; the right answer is not looked at."""
    return [_judged(answer.said, config) for answer in group.answers]


def _judged(answer: str, config: Config) -> Verdict:
    """In time that is linear in the answer."""
    wanted = [mark for tag in config.tags for mark in (f"<{tag}>", f"</{tag}>")]
    marks = "|".join(re.escape(mark) for mark in wanted)
    pieces = re.split(f"({marks})", f"<{config.tags[0]}>{answer}" if config.opened else answer)
    if pieces[1::2] != wanted:
        return Verdict(0.0, f"not the tags {''.join(wanted)}, each once")
    outside = [piece.strip() for piece in pieces[::4]]
    if any(outside[:-1]) or (outside[-1] and not config.text_after):
        return Verdict(0.0, "text outside the tags")
    if config.text_after and not outside[-1]:
        return Verdict(0.0, "nothing after the tags")
    return Verdict(1.0)
