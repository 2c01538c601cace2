"""A response in its parts: thinking, the answer, and what an engine sampled behind its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from params.prompt import Prompt
from tasks.engines.base import Response

TAIL = 16
"""Tokens at the end of a prompt among which it may open the thinking."""


@dataclass(frozen=True)
class Read:
    """What a response says."""

    answer: str
    """For the judge: behind the thinking, before a text that ends the response, without special tokens. Empty
    where the thinking does not end."""
    thinking_tokens: int | None
    """Tokens up to the end of its thinking; None where it does none."""
    whole: str | None = None
    """All that it says, thinking and tags too, where that is more than the answer."""


class Reader:
    """Reads responses of a tokenizer, with the texts that end one."""

    def __init__(self, tokenizer: Any, prompt: Prompt, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._tags = prompt.thinking
        self._stop = tuple(stop)
        # a token is a byte at least, and a byte-level one may hold a part of a character
        self._window = max((len(text.encode()) for text in stop), default=0) + 4

    @property
    def ends(self) -> Callable[[Sequence[int]], bool] | None:
        """Whether a response has just come to its end; None where no text ends one."""
        return self._ends if self._stop else None

    def cut(self, response: Response) -> Response:
        """The response up to the token that completes the first text that ends one."""
        ids = response.token_ids
        if not self._stop or not self._holds_stop(ids):
            return response
        kept = _least(len(ids), lambda count: self._holds_stop(ids[:count]))
        top = len(response.top_ids) // len(ids)
        return replace(
            response,
            token_ids=ids[:kept],
            logp=response.logp[:kept],
            finish_reason="stop",
            top_ids=response.top_ids[: kept * top],
            top_logp=response.top_logp[: kept * top],
            entropy=response.entropy[:kept],
        )

    def opens(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the prompt itself opens the thinking, as some templates do."""
        if self._tags is None:
            return False
        return str(self._tokenizer.decode(prompt_ids[-TAIL:])).rstrip().endswith(self._tags[0])

    def read(self, ids: Sequence[int], opened: bool) -> Read:
        """A response after a prompt that has ``opened`` the thinking or not."""
        thinking, closed = self._thinking(ids, opened)
        whole = None if thinking is None else self._text(ids)
        return Read(self._text(ids[thinking or 0 :]) if closed else "", thinking, whole)

    def _text(self, ids: Sequence[int]) -> str:
        """Without special tokens, up to a text that ends a response."""
        text = str(self._tokenizer.decode(ids, skip_special_tokens=True))
        ends = [place for place in map(text.find, self._stop) if place >= 0]
        return text[: min(ends)] if ends else text

    def _thinking(self, ids: Sequence[int], opened: bool) -> tuple[int | None, bool]:
        """Its tokens, None where there is none, and whether it has come to its end."""
        if self._tags is None:
            return None, True
        opening, closing = self._tags
        text = str(self._tokenizer.decode(ids))
        if closing in text:
            times = text.count(closing)
            return _least(len(ids), lambda n: self._tokenizer.decode(ids[:n]).count(closing) >= times), True
        thinks = opened or text.lstrip().startswith(opening)
        return (len(ids), False) if thinks else (None, True)

    def _holds_stop(self, ids: Sequence[int]) -> bool:
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return any(stop in text for stop in self._stop)

    def _ends(self, ids: Sequence[int]) -> bool:
        return self._holds_stop(ids[-self._window :])


def _least(most: int, holds: Callable[[int], bool]) -> int:
    """The least count for which ``holds``, which is true of ``most`` and stays true once it is."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
