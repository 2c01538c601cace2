"""What a run trains on: problems, how they are put to the model, and the judge."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import PositiveInt, field_validator

from params.base import Choice, Config
from params.episode import Episode
from params.prompt import Prompt
from params.reward import Rewards, read_rewards
from params.speed import Speed


class Task(Config):
    """The problems and the judge."""

    problems: Choice
    """Where problems come from: a module of ``tasks.problems`` and its options."""
    train_count: PositiveInt = 512
    """Problems in the training set."""
    held_out_count: PositiveInt = 128
    """Problems in the held-out set, none of which is in the training set."""
    prompt: Prompt = Prompt()
    """How a problem is put to the model."""
    on_long_prompt: Literal["error", "drop"] = "error"
    """What becomes of a problem whose prompt leaves no room for ``rollout.max_response_tokens``. ``drop``: it
    is left out, and counted."""
    reward: Rewards = Choice(name="math")
    """The judge: a module of ``tasks.rewards`` and its options, or a function of one's own; or a list of
    several, each with a ``weight``. Their weighted sum is trained on, and the first that applies to an answer
    says whether it is right."""
    environment: Choice | None = None
    """What the model acts in, for several turns: a module of ``tasks.environments`` and its options, or a
    class of one's own, ``my_file.py:Name``. An episode that it gives no reward is judged by ``reward``, on
    what the model said last. null: one turn."""
    episode: Episode = Episode()
    """The limits of an episode."""
    reward_workers: Annotated[PositiveInt, Speed] = 1
    """Judging processes."""

    @field_validator("reward", mode="before")
    @classmethod
    def _named_once(cls, given: Any) -> Any:
        return read_rewards(given)
