"""What may be chosen of ERPD: an extreme teacher, its signal, and a student inside a trust region."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from params.base import Config


class Teacher(Config):
    """Phase one: how one teacher is fitted to the round's answers, far and without a trust region."""

    loss: Literal["sapo", "cross_entropy", "mean_squared"] = "mean_squared"
    """What it minimises: a function of ``algorithms.erpd``."""
    beta: PositiveFloat = 0.3
    """Reward a nat of log-ratio between teacher and base, of a response; not read by ``sapo``."""
    length_normalised: bool = False
    """The log-ratio of a response is the mean over its tokens, not the sum. A right answer then gains the
    more nats the longer it is, and a teacher of answers of many lengths learns to ramble."""
    target: Literal["log_partition", "centred", "advantage"] = "centred"
    """``mean_squared`` only: what is taken from the reward: V*, so that the loss can vanish; the group's
    mean, so that the answers together are pushed neither up nor down; or the mean, with division by the
    group's deviation."""
    tau_positive: PositiveFloat = 1.0
    """``sapo`` only: temperature of its gate where the advantage is positive."""
    tau_negative: PositiveFloat = 1.05
    """``sapo`` only: the same where it is negative."""
    epochs: PositiveInt = 4
    """Passes over the answers."""
    minibatches: PositiveInt = 3
    """Optimiser steps a pass."""
    learning_rate: PositiveFloat | None = None
    """AdamW's step length; null: ``update.learning_rate``."""


class Signal(Config):
    """What of the teachers becomes the token-level signal."""

    mode: Literal["auto", "strong", "weak", "extrapolated"] = "auto"
    """``strong``: teacher to base. ``weak``: teacher to an unlearned teacher, fitted to flipped targets.
    ``extrapolated``: strong, and beyond the teacher. ``auto``: strong or weak, whichever ranks the right
    answers higher on problems that no teacher saw; none where both clearly rank them lower."""
    extrapolation: PositiveFloat = 1.5
    """``extrapolated`` only: the power of teacher to base towards which the student goes; 1: the teacher."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Of the teachers, by name, where there are several; one that is not named weighs 1."""


class Student(Config):
    """Phase two: from the round's base as far as the trust region allows."""

    budget: PositiveFloat = 0.02
    """Largest mean divergence KL(student, base of the round), in nats per token, over states of the answers
    and the whole vocabulary. The stretch that would leave it is shortened and is the last."""
    measured_answers: PositiveInt | None = 64
    """Answers, evenly spread, over whose states that divergence is measured; null: all. A measurement over
    all costs a forward pass, and a round takes some seven."""
    target: Literal["tokens", "exact"] = "tokens"
    """``tokens``: a clipped policy gradient on the sampled tokens. ``exact``: towards the geometric mean of
    base and teacher over the whole vocabulary."""
    spread: Literal["mean", "state"] = "mean"
    """``exact`` only: one exponent for all states, for the budget on average; or one for each, for the budget
    in each."""
    answers: Literal["static", "fresh"] = "static"
    """Learn on the round's answers, or on answers that the student samples to the round's problems."""
    fresh_rounds: PositiveInt = 2
    """``fresh`` only: how often the student samples; each time, the ratios are anchored in it anew."""
    clip: PositiveFloat = 4.0
    """Largest absolute value of the signal, in its standard deviations."""
    clip_low: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """A token whose signal is negative stops pushing once its ratio is below 1 - clip_low."""
    clip_high: Annotated[float, Field(ge=0.0)] = 0.28
    """A token whose signal is positive stops pulling once its ratio is above 1 + clip_high."""
    kl_coefficient: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the divergence from the round's base (k3) in the loss, in signal a nat."""
    epochs: PositiveInt = 8
    """Passes over the answers, at most."""
    minibatches: PositiveInt = 4
    """Optimiser steps a pass."""
    learning_rate: PositiveFloat | None = None
    """AdamW's step length after the warm-up; null: ``update.learning_rate``."""
    warmup_steps: Annotated[int, Field(ge=0)] = 8
    """Optimiser steps in which the step length rises linearly. AdamW's first steps from rest move every
    weight by the whole of it, and few of those leave the budget."""


class Distil(Config):
    """ERPD in place of the update: teach, unlearn where the mode asks for it, signal, distil."""

    teachers: dict[str, Teacher] = Field(default_factory=lambda: {"main": Teacher()})
    """By name; several are combined. The first is the one that is evaluated."""
    signal: Signal = Signal()
    student: Student = Student()
    hold_out: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.125
    """Share of a round's problems that no teacher sees, rounded up: there signals are judged."""
    evaluate_teacher: bool = True
    """Evaluate the first teacher, on the held-out problems, whenever the policy is evaluated."""

    @model_validator(mode="after")
    def _consistent(self) -> Distil:
        if not self.teachers:
            raise ValueError("distil.teachers: none; expected at least one, by name")
        for name in self.teachers:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"distil.teachers.{name}: expected letters, digits, dashes and underscores")
        for name in self.signal.weights:
            if name not in self.teachers:
                raise ValueError(
                    f"distil.signal.weights.{name}: no such teacher; known: {', '.join(self.teachers)}"
                )
        if self.signal.mode == "auto" and not self.hold_out:
            raise ValueError(
                "distil.signal.mode: auto judges signals on problems held out; expected distil.hold_out > 0"
            )
        return self

    def unlearns(self) -> bool:
        """Whether the mode may need an unlearned teacher."""
        return self.signal.mode in ("auto", "weak")
