"""A judge model: an OpenAI-compatible server is shown the answer and says a choice or a score.

Its last word of the choices counts, or its last number that is not of the scale ("8/10" says 8); a reply with
none, and a server that cannot be asked, is no verdict, never 0. What is judged was written by a model and may
try to talk the judge round: the template decides how far it gets.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from tasks.rewards.base import Answer, Bounds, Group, Verdict
from tasks.rewards.chat_server import ChatServer, Unanswered, base_of

__all__ = ["messages_of"]

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])")
TEMPLATE = (
    "Question:\n{question}\n\nRight answer:\n{gold}\n\nGiven answer:\n{answer}\n\n"
    "Does the given answer agree with the right answer? End with yes or no."
)
FIELDS = ("question", "gold", "answer")
SHOWN = 80


class Config(Bounds):
    """Whom to ask, what, and how to read the reply."""

    timeout_seconds: PositiveFloat = 900.0
    """Time for one answer, all tries together; the judging process is killed after it."""
    server: str
    """``http://HOST:PORT`` or with the path before ``/chat/completions``, such as ``https://HOST/v1``."""
    model: str
    """What the server calls the model."""
    template: str = TEMPLATE
    """The user's message, with ``{answer}`` and, as needed, ``{question}`` and ``{gold}``."""
    system: str | None = None
    """The system message; null: none."""
    choices: dict[str, float] | None = Field(default_factory=lambda: {"yes": 1.0, "no": 0.0})
    """Words and the rewards that they stand for; null: a score."""
    score: tuple[float, float] | None = None
    """Least and greatest score that is asked for, which become rewards of 0 and 1; null: choices."""
    max_tokens: PositiveInt = 512
    """Longest reply."""
    key_from: str = "OPENAI_API_KEY"
    """The environment variable with the key. Without one, none is sent."""
    parallel: PositiveInt = 8
    """Requests under way at once, of each judging process."""
    tries: PositiveInt = 5
    """Of each request: where the server is busy, fails, or cannot be reached."""
    wait_seconds: PositiveFloat = 1.0
    """Before the second try; doubled before each further one, to a minute at most."""
    request_seconds: PositiveFloat = 120.0
    """For one request."""
    max_answer_characters: Annotated[int, Field(ge=1)] = 20_000
    """Of a longer answer, only so many characters of its end are shown."""

    @model_validator(mode="before")
    @classmethod
    def _score_alone(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("score") is not None and "choices" not in given:
            return {**given, "choices": None}
        return given

    @model_validator(mode="after")
    def _can_be_asked(self) -> Config:
        base_of(self.server)
        if "{answer}" not in self.template:
            raise ValueError("task.reward.template: no {answer} in it; expected one")
        if (self.choices is None) == (self.score is None):
            raise ValueError("task.reward: expected choices or a score, and not both")
        if self.choices is not None and len({name.casefold() for name in self.choices}) < 2:
            raise ValueError("task.reward.choices: expected two words at least")
        if self.score is not None and not self.score[0] < self.score[1]:
            raise ValueError("task.reward.score: expected the least score before the greatest")
        return self


def whole_groups(config: Config) -> bool:
    """Answers to one problem are asked about side by side."""
    return True


def content_keys(group: Group, config: Config) -> list[str]:
    """A digest of the messages, whom they go to, and how the reply is read."""
    reading = [config.server, config.model, config.choices, config.score, config.max_tokens]
    asked = [[messages_of(group, answer, config), *reading] for answer in group.answers]
    return [hashlib.sha256(json.dumps(each).encode()).hexdigest() for each in asked]


def judge_group(group: Group, config: Config) -> list[Verdict]:
    """Ask about each answer."""
    server = ChatServer(config.server, os.environ.get(config.key_from), config.request_seconds)
    with ThreadPoolExecutor(min(config.parallel, len(group.answers))) as pool:
        return list(pool.map(partial(_verdict, server, group, config), group.answers))


def messages_of(group: Group, answer: Answer, config: Config) -> list[dict[str, str]]:
    """What is asked. The fields are filled in one pass, so that an answer that holds ``{gold}`` gets none."""
    shown = answer.text[-config.max_answer_characters :]
    values = {"question": group.question, "gold": group.gold, "answer": shown}
    pattern = "|".join(f"{{{name}}}" for name in FIELDS)
    asked = re.sub(pattern, lambda found: values[found[0][1:-1]], config.template)
    system = [{"role": "system", "content": config.system}] if config.system is not None else []
    return [*system, {"role": "user", "content": asked}]


def _verdict(server: ChatServer, group: Group, config: Config, answer: Answer) -> Verdict:
    body = {
        "model": config.model,
        "messages": messages_of(group, answer, config),
        "temperature": 0.0,
        "max_tokens": config.max_tokens,
    }
    reason = ""
    for attempt in range(config.tries):
        try:
            return _read(server.reply(body), config)
        except Unanswered as failure:
            reason = str(failure)
            if failure.final or attempt == config.tries - 1:
                break
            time.sleep(failure.after or min(60.0, config.wait_seconds * 2**attempt))
    return Verdict(None, reason)


def _read(reply: str, config: Config) -> Verdict:
    """The verdict that a reply holds, which stands in the notes."""
    notes = {"reply": reply[-1000:]}
    if config.choices is not None:
        rewards = {name.casefold(): reward for name, reward in config.choices.items()}
        longest = sorted(rewards, key=len, reverse=True)
        pattern = rf"(?<!\w)({'|'.join(map(re.escape, longest))})(?!\w)"
        words = re.findall(pattern, reply.casefold())
        if words:
            return Verdict(rewards[words[-1]], notes=notes)
        expected = " or ".join(config.choices)
    else:
        assert config.score is not None
        least, greatest = config.score
        numbers = [float(number) for number in NUMBER.findall(_without_scale(reply, least, greatest))]
        if numbers and least <= numbers[-1] <= greatest:
            return Verdict((numbers[-1] - least) / (greatest - least), notes=notes)
        expected = f"a score from {least:g} to {greatest:g}"
    return Verdict(None, f"{config.model} said '{_shown(reply)}'; expected {expected}", notes=notes)


def _without_scale(reply: str, least: float, greatest: float) -> str:
    """The reply without what it says of the scale: ``/10``, ``out of 10``, ``0-10``, ``0 to 10``."""
    low, high = (rf"{re.escape(f'{bound:.15g}')}(?:\.0+)?" for bound in (least, greatest))
    highest = rf"\s{{0,3}}(?:/|\bout of\b|(?<=\d) of\b)\s{{0,3}}{high}"
    scale = rf"(?<![\w.]){low}\s{{0,3}}(?:[-\u2013\u2014]|\bto\b)\s{{0,3}}{high}"
    return re.sub(rf"(?:{highest}|{scale})(?!\w|\.\d)", " ", reply, flags=re.IGNORECASE)


def _shown(reply: str) -> str:
    return " ".join(reply.split())[-SHOWN:]
