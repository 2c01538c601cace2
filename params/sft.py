"""A supervised warm start on demonstrations: the policy with which the rounds begin."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from params.base import Config


class Sft(Config):
    """How it is trained, or where it comes from. The adapter, or all weights, is that of ``update``."""

    policy: str | None = None
    """A finished run, or the artefact of a policy, to begin with; null: one is trained here."""
    epochs: PositiveInt = 3
    """Passes over the demonstrations of the training problems."""
    demonstrations_per_step: PositiveInt = 16
    """Demonstrations of one optimiser step."""
    learning_rate: PositiveFloat | None = None
    """AdamW's step length after the warm-up; null: that of the update."""
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    """Optimiser steps in which it rises linearly."""
