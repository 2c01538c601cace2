"""Measuring a policy: on a task's held-out problems, and on named sets with settings of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints, field_validator, model_validator

from params.base import Choice, Config
from params.episode import Episode
from params.layers import laid_on_presets, preset_names
from params.prompt import Prompt
from params.reward import Rewards, read_rewards
from params.speed import Elsewhere

PRESETS = Path(__file__).parent / "sets"
SetName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,49}$")]


class EvaluationSet(Config):
    """A benchmark: its problems, how they are asked and judged, how answers are sampled."""

    problems: Choice
    """Where they come from: a module of ``tasks.problems`` and its options. Of a source with a training and a
    held-out part, the held-out one."""
    count: PositiveInt | None = None
    """Problems at most, drawn by the seed; null: all."""
    prompt: Prompt = Prompt()
    """How they are put to the model. Examples come from the source's training part."""
    on_long_prompt: Literal["error", "drop"] = "error"
    """What becomes of a problem whose prompt leaves no room for an answer. ``drop``: it is left out, and
    counted."""
    reward: Rewards = Choice(name="math")
    """The judge, or several, as in a task."""
    environment: Choice | None = None
    """What the model acts in, as in a task; null: one turn, whatever the task has."""
    episode: Episode = Episode()
    """The limits of an episode."""
    samples_per_problem: PositiveInt = 1
    """Sampled responses per problem, n of mean@n."""
    pass_at: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    """The k of pass@k; null: 1 and n."""
    greedy: bool = True
    """Answer each problem greedily too."""
    temperature: PositiveFloat | None = None
    """Sampling temperature; null: the evaluation's."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """As in the evaluation; null: the evaluation's."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """As in the evaluation; null: the evaluation's."""
    max_response_tokens: PositiveInt | None = None
    """Longest response, in tokens; null: the evaluation's."""
    every: PositiveInt | None = None
    """Rounds between evaluations; null: the evaluation's. The base model and the last policy always."""

    @field_validator("reward", mode="before")
    @classmethod
    def _named_once(cls, given: Any) -> Any:
        return read_rewards(given)

    @property
    def ks(self) -> tuple[int, ...]:
        """The k of pass@k."""
        return self.pass_at or tuple(sorted({1, self.samples_per_problem}))

    @model_validator(mode="after")
    def _enough_samples(self) -> EvaluationSet:
        if max(self.ks) > self.samples_per_problem:
            raise ValueError("evaluate.sets: a pass_at exceeds samples_per_problem")
        return self


def set_presets() -> list[str]:
    """The names of the sets that there are presets of."""
    return preset_names(PRESETS)


class Evaluate(Config):
    """Measuring a policy on held-out problems."""

    every: PositiveInt = 5
    """Rounds between evaluations; the base model and the last policy are always evaluated."""
    samples_per_problem: PositiveInt = 4
    """Sampled responses per problem, n of mean@n. However many, they are held in memory a part at a time."""
    pass_at: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 4)
    """The k of pass@k, all from the same responses; none larger than samples_per_problem."""
    temperature: PositiveFloat | None = None
    """Their sampling temperature; null: the rollout's. What the trainer says of their tokens (entropy,
    rank-k, KL to the base) is of the policy at the rollout's in any case."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """They are drawn from the likeliest tokens that together reach this probability; 1: from all."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """They are drawn from so many likeliest tokens; 0: from all. Before top_p, where both are given."""
    max_response_tokens: PositiveInt | None = None
    """Longest response, greedy or sampled, in tokens; null: the rollout's."""
    greedy: bool = True
    """Answer each problem greedily too."""
    scored_problems: Annotated[int, Field(ge=0)] | None = None
    """Held-out problems, evenly spread, over whose answers entropy, rank-k and KL to the base are means;
    null: all; 0: none. They take two passes of the trainer, on a CPU half of an evaluation."""
    bootstrap_samples: PositiveInt = 2000
    """Resamplings of the problems for the intervals."""
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    """Coverage of the intervals."""
    transcripts: PositiveInt = 24
    """Held-out problems whose answers the report shows."""
    sets: Annotated[dict[SetName, EvaluationSet], Elsewhere] = Field(default_factory=dict)
    """Benchmarks beside the held-out problems, by name: ``[gsm8k, aime24]``, each a preset of
    ``params/sets``, or a mapping of names to what is other than in the preset, or to all of it."""

    @field_validator("sets", mode="before")
    @classmethod
    def _presets(cls, given: Any) -> Any:
        return laid_on_presets(given, PRESETS, "evaluate.sets", dict)

    @model_validator(mode="after")
    def _enough_samples(self) -> Evaluate:
        if max(self.pass_at) > self.samples_per_problem:
            raise ValueError("evaluate.pass_at must not exceed evaluate.samples_per_problem")
        return self
