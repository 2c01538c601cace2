"""The limits of an episode: several turns of a model and its environment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from params.base import Config


class Episode(Config):
    """How long an episode may be, what its environment may take, and how tools are called.

    All tokens of an episode after its prompt, given ones too, are at most ``rollout.max_response_tokens``.
    """

    turns: PositiveInt = 8
    """Turns of the model at most; one that would have another ends with ``turns``."""
    turn_tokens: PositiveInt | None = None
    """Tokens of one turn at most; a turn that is cut ends its episode with ``turn_length``. null: as many as
    are left."""
    call_seconds: PositiveFloat = 5.0
    """Time for one call of the environment; one that takes longer is killed, and its episode ends with
    ``time`` and a reward of 0."""
    seconds: PositiveFloat = 30.0
    """Time for all calls of an episode's environment together."""
    memory_mib: PositiveInt = 1024
    """Address space of the process that an episode's environment has to itself."""
    file_mib: Annotated[int, Field(ge=0)] = 0
    """Largest file that it may write."""
    observation_characters: PositiveInt = 2000
    """Of a longer text from the environment only so many first characters are read."""
    calls: Literal["auto", "template", "fenced"] = "auto"
    """How tools are called: as the chat template says it (``template``); or by a fenced block with the tool's
    name and its argument (``fenced``), for models that learnt neither. ``auto``: by the template where it
    reads tools."""
    describe_tools: bool = True
    """``fenced``: say in the system message which tools there are, and how to call them."""
    keep_thinking: bool = False
    """Take a chat template that leaves the thinking of earlier turns out. Tokens are never taken back: the
    model then reads its thinking again, otherwise than the template has it. Without: refused."""
