"""Which training problems a run asks, by how often the base model, or the policy, solves them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from params.base import Config
from params.speed import Probability


class Curriculum(Config):
    """A pass rate for each training problem, by answers of the base model, and what is made of it."""

    samples_per_problem: PositiveInt = 8
    """Answers of the base model to each training problem, at the rollout's temperature and length."""
    above: Probability = 0.0
    """Only problems are asked whose pass rate is above this."""
    below: Probability = 1.0
    """Only problems are asked whose pass rate is below this."""
    order: Literal["random", "easy_first"] = "random"
    """In which order the rounds of an epoch go through them; ``easy_first``: by falling pass rate, equal ones
    by the seed."""
    latest_rounds: Annotated[int, Field(ge=0)] = 0
    """For so many rounds the policy's answers to a problem say its pass rate; then the base model's says it
    again. 0: the base model's alone."""

    @model_validator(mode="after")
    def _leaves_some(self) -> Curriculum:
        if self.above >= self.below:
            raise ValueError("curriculum.above must be smaller than curriculum.below")
        return self
