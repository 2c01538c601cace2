"""What a chat template puts between two turns of the model, in tokens: history is appended to, never re-made.

The text behind an assistant's message, up to where the next one begins, is found by writing a small talk and
looking at what follows its assistant's words. It is encoded by itself and put behind the tokens that were
sampled. A template that does not go on from what it wrote before is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from params.base import BadInput
from tasks.policy.chat import Chat
from tasks.policy.template_patches import PATCHES

Message = dict[str, Any]
_ASKED = {"role": "user", "content": "1 + 1"}
_SAID = "OSTINATO"
_THOUGHT = "PONDERED"
_EXPECTED = (
    "one that only appends, such as task.prompt.chat_template names, or, where it leaves out thinking alone, "
    "task.episode.keep_thinking: true (tokens are never taken back: the model reads its thinking again)"
)


class Turns:
    """Continues talks of a chat's."""

    def __init__(self, chat: Chat, stop_ids: Sequence[int], tools: bool, keep_thinking: bool) -> None:
        """``tools``: tools answer by messages of their own. Raises ``BadInput`` for a template that rewrites
        history, or takes no such message."""
        self._chat, self._stop_ids = chat, frozenset(stop_ids)
        said = {"role": "tool", "name": "f", "content": "2"} if tools else {**_ASKED, "content": "2"}
        if complaint := _complaint(chat, [said], keep_thinking):
            helps = [name for name in PATCHES if _mends(name, chat, [said], keep_thinking)]
            expected = f"--set task.prompt.template_patch={helps[0]}" if helps else _EXPECTED
            raise BadInput(f"{chat.named} {complaint}; expected {expected}")

    def between(self, messages: Sequence[Message], turn: Sequence[int]) -> list[int]:
        """The tokens between a ``turn``, of these tokens, and the next, which reads the ``messages``."""
        text, tokenizer, last = self._text(messages), self._chat.tokenizer, turn[-1]
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        ends = [place for place, token in enumerate(ids[:2]) if token in self._stop_ids]
        if ends:  # a turn that ended with a text of the user's has no such token yet
            return ids[ends[0] + 1 :] if last in self._stop_ids else ids
        if last not in self._stop_ids:  # it ended with a text, which is there already
            ids = tokenizer.encode(text[self._already(text, messages, turn) :], add_special_tokens=False)
        return ids

    def harmless(self, text: str) -> str:
        """The text with no word of it that the tokenizer would read as a token of the template's."""
        for token in self._chat.marks:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _already(self, text: str, messages: Sequence[Message], turn: Sequence[int]) -> int:
        """How many characters of the ``text``, before any of the messages, end with the text that ended the
        turn; none where the template has no such text there."""
        window = max((len(stop.encode()) for stop in self._chat.stop), default=0) + 4
        end = str(self._chat.tokenizer.decode(turn[-window:], skip_special_tokens=True))
        stops = [stop for stop in self._chat.stop if stop in end]
        if not stops:
            return 0
        first = min(stops, key=lambda stop: (end.find(stop), -len(stop)))
        other = [{**each, "content": _THOUGHT} for each in messages]
        lead = self._text(other).partition(_THOUGHT)[0]
        return lead.find(first) + len(first) if first in lead and text.startswith(lead) else 0

    def _text(self, messages: Sequence[Message]) -> str:
        talk = [_ASKED, {"role": "assistant", "content": _SAID}, *map(_whole, messages)]
        return self._chat.text(talk).partition(_SAID)[2]


def _complaint(chat: Chat, said: list[Message], keep_thinking: bool) -> str:
    """What a template does to what it wrote before, where it does not only append."""
    asked, own, more = _ASKED, {"role": "assistant", "content": _SAID}, [*map(_whole, said)]
    first, one = chat.text([asked]), chat.text([asked, own, *more])
    two = chat.text([asked, own, *more, own, *more])
    head, _, suffix = one.partition(_SAID)
    goes_on = head.rstrip() == first.rstrip() or (keep_thinking and first.startswith(head.rstrip()))
    repeats = two.startswith(head + _SAID) and two.rpartition(_SAID)[2] == suffix
    if not (goes_on and repeats and suffix):
        return "rewrites what it wrote before when the talk goes on"
    if chat.thinking and not keep_thinking:
        opens, closes = chat.thinking
        thought = {"role": "assistant", "content": f"{opens}\n{_THOUGHT}\n{closes}\n\n{_SAID}"}
        if _THOUGHT not in chat.text([asked, thought, *more]):
            return "leaves out the thinking of earlier turns"
    return ""


def _mends(name: str, chat: Chat, said: list[Message], keep_thinking: bool) -> bool:
    """Whether a patch leaves nothing to complain about."""
    try:
        return not _complaint(chat.patched(name), said, keep_thinking)
    except BadInput:
        return False


def _whole(message: Message) -> Message:
    """With what some templates ask of a tool's message."""
    return {"tool_call_id": "000000000", **message} if message["role"] == "tool" else message
