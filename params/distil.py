"""What may be chosen of ERPD: extreme teachers, signals of theirs, and a student that learns from these."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from params.base import Config, nearest

MOST_SNAPSHOTS = 32
"""Of one teacher in one round."""
MOST_ROUNDS_BACK = 8
NonNegative = Annotated[float, Field(ge=0.0)]


class Fit(Config):
    """How a policy is fitted to the round's answers, far and without a trust region."""

    loss: Literal["cross_entropy", "sapo", "grpo", "probability", "likelihood", "outcome_regression"] = (
        "cross_entropy"
    )
    """What it minimises: a function of ``algorithms.erpd``. ``outcome_regression`` is ours."""
    beta: PositiveFloat = 1e-3
    """``cross_entropy`` and ``outcome_regression`` only: logits, or reward, a nat of log-ratio between the
    policy and the round's base, of a response."""
    length_normalised: bool = False
    """The same: the log-ratio of a response is the mean over its tokens, not the sum."""
    target: Literal["log_partition", "centred", "advantage"] = "centred"
    """``outcome_regression`` only: what is taken from the reward: V*, so that the loss can vanish; the
    group's mean, so that the answers together are pushed neither up nor down; or the mean, with division by
    the group's deviation."""
    tau_positive: PositiveFloat = 1.0
    """``sapo`` only: temperature of its gate where the advantage is positive."""
    tau_negative: PositiveFloat = 1.05
    """``sapo`` only: the same where it is negative."""
    clip_low: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """``grpo`` only: lower bound of the ratio to the round's base."""
    clip_high: NonNegative = 0.28
    """``grpo`` only: its upper bound."""
    wrong_weight: NonNegative = 1.0
    """``probability`` only: weight of the tokens of wrong answers."""
    flipped: bool = False
    """Fit to flipped outcomes, r to 1 - r; ours."""
    kl_coefficient: NonNegative = 0.0
    """Weight of the divergence from the round's base (k3, a mean over tokens) in the loss."""
    steps: PositiveInt | None = None
    """Optimiser steps; null: ``epochs`` decides."""
    epochs: PositiveInt = 4
    """Passes over the answers, where ``steps`` is null."""
    problems_per_step: PositiveInt = 8
    """Problems in the minibatch of a step, with all their answers."""
    learning_rate: PositiveFloat | None = None
    """AdamW's step length, without a warm-up; null: ``relative_rate`` times ``update.learning_rate``."""
    relative_rate: PositiveFloat = 1.0
    """AdamW from rest moves every weight by the whole step length at first, and takes many steps here."""
    snapshot_every: PositiveInt | None = None
    """Steps between snapshots that are kept; null: only the last step is."""

    def total(self, problems: int) -> int:
        """Optimiser steps on so many problems."""
        return self.steps or self.epochs * math.ceil(problems / self.problems_per_step)

    def snapshots(self, problems: int) -> list[int]:
        """The steps after which the policy is kept; the last one is among them."""
        total = self.total(problems)
        return sorted({*range(self.snapshot_every or total, total, self.snapshot_every or total), total})


class Teacher(Fit):
    """One teacher."""

    start: Literal["base", "unlearned"] = "base"
    """Where it begins. ``unlearned``: it recovers what ``unlearn`` has unlearned."""


class Unlearn(Fit):
    """The unlearned policy: the first steps of a ``probability`` fit. With ``flipped`` it is ours."""

    loss: Literal["cross_entropy", "sapo", "grpo", "probability", "likelihood", "outcome_regression"] = (
        "probability"
    )
    steps: PositiveInt | None = 10


class Signal(Config):
    """What one teacher says of each token, against a reference."""

    teacher: str = "main"
    """Its name."""
    weights: dict[str, float] = Field(default_factory=dict)
    """In place of ``teacher``, ours: several, whose log-ratios are added up, each over its deviation."""
    step: Literal["best", "last"] | PositiveInt = "best"
    """Which snapshot of the teacher: the best by ``distil.validation.measure``, the last, that of a step."""
    numerator: Literal["teacher", "base", "omitted"] = "teacher"
    """What stands in the log-ratio for the teacher; others than the teacher are for ablations."""
    reference: Literal["base", "unlearned", "older", "student", "auto", "ranked", "omitted"] = "base"
    """The denominator of the log-ratio. ``base``: the round's base, fixed (S1). ``unlearned``: S2. ``older``:
    the base of an earlier round (S3). ``student``: the student itself, as it moves. ``auto``: the base while
    the teacher beats it on validation problems, else ``otherwise``. ``ranked``, ours: base or unlearned,
    whichever ranks the right validation answers higher; none where both clearly rank them lower. ``omitted``:
    no denominator, for ablations."""
    otherwise: Literal["unlearned", "older", "ranked"] = "unlearned"
    """``auto`` only. ``ranked``: unlearned or older, whichever ranks the right validation answers higher."""
    rounds_back: Annotated[int, Field(ge=1, le=MOST_ROUNDS_BACK)] = 1
    """Of ``older``: rounds between its base and this one's; before the first round is the base model, and
    ``auto`` then does without it."""
    on_right: Literal["all", "negative", "positive"] = "all"
    """Which part of the log-ratio stays on the tokens of right answers, before it is normalised."""
    normalisation: Literal["whitened", "centred"] = "whitened"
    """``whitened``: mean 0 and deviation 1 over the tokens of the round's answers. ``centred``, ours: without
    its expectation under the base, over the whole vocabulary, and divided by its deviation."""
    extrapolation: PositiveFloat = 1.0
    """``student`` only: the power of teacher to base towards which the student goes; other than 1 it is
    ours."""

    def names(self) -> tuple[str, ...]:
        """Of its teachers."""
        return tuple(sorted(self.weights)) or (self.teacher,)

    def may_ask(self, policy: Literal["unlearned", "older"]) -> bool:
        """Whether that policy may be its reference."""
        other = self.otherwise if self.reference == "auto" else self.reference
        if other == "ranked":
            return policy == "unlearned" or self.reference == "auto"
        return other == policy


class Validation(Config):
    """How snapshots of teachers are measured: on training problems that the round does not learn from."""

    problems: PositiveInt = 16
    """Their number."""
    samples: PositiveInt = 4
    """Answers to each."""
    measure: Literal["accuracy", "loss"] = "accuracy"
    """What makes a snapshot the best: most right answers of its own, or the smallest of its loss on the
    base's answers. Of equals, the earliest."""


class Phase(Config):
    """Some steps of the student with one signal."""

    signal: str
    """Its name."""
    steps: PositiveInt | None = None
    """Optimiser steps; null: ``distil.student.steps``."""


class Student(Config):
    """From the round's base by the clipped surrogate, with signals as advantages."""

    sequence: tuple[Phase, ...] = ()
    """The signals, one after the other; may be left out where there is one signal."""
    steps: PositiveInt = 16
    """Optimiser steps with a signal: minibatches of the answers in a seeded order."""
    answers_per_step: PositiveInt | None = None
    """Answers in a minibatch; null: all answers are split evenly among the steps, which are one epoch."""
    clip_low: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """A token whose signal is negative stops pushing once its ratio is below 1 - clip_low."""
    clip_high: NonNegative = 0.28
    """A token whose signal is positive stops pulling once its ratio is above 1 + clip_high."""
    kl_coefficient: NonNegative = 0.0
    """Weight of the divergence from the round's base (k3) in the loss."""
    entropy_coefficient: NonNegative = 0.0
    """Weight of the entropy, over the whole vocabulary, that the loss is lowered by."""
    learning_rate: PositiveFloat | None = None
    """AdamW's step length after the warm-up; null: ``relative_rate`` times ``update.learning_rate``."""
    relative_rate: PositiveFloat = 1.0
    """As a teacher's."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps in which the step length rises linearly."""
    measured_answers: PositiveInt | None = 64
    """Answers, evenly spread, over whose states the divergence from the base is measured; null: all."""
    clip: PositiveFloat | None = None
    """Ours: largest absolute value of the normalised signal; null: none."""
    epochs: PositiveInt = 1
    """Ours where more than 1: passes over the answers with a signal, each of its steps."""
    budget: PositiveFloat | None = None
    """Ours: largest mean divergence KL(student, base of the round), in nats per token, over states of the
    answers and the whole vocabulary; null: none. The stretch that would leave it is shortened and is the
    last."""
    target: Literal["tokens", "exact", "teacher"] = "tokens"
    """``tokens``: the clipped surrogate. ``exact``, ours: towards the geometric mean of base and teacher over
    the whole vocabulary, for the budget. ``teacher``: no distillation, the first signal's teacher is the next
    policy."""
    spread: Literal["mean", "state"] = "mean"
    """``exact`` only: one exponent for all states, for the budget on average; or one for each, for the budget
    in each."""
    answers: Literal["static", "fresh"] = "static"
    """``fresh``, ours: learn on answers that the student samples to the round's problems."""
    fresh_rounds: PositiveInt = 2
    """``fresh`` only: how often the student samples; each time, the ratios are anchored in it anew."""

    def needs_teachers(self) -> bool:
        """Whether it wants more of the teachers than the signal holds."""
        return self.answers == "fresh" or self.target != "tokens"


class Distil(Config):
    """ERPD in place of the update: unlearn where a signal or a teacher asks for it, teach, signal, distil."""

    unlearn: Unlearn = Unlearn()
    unlearned_step: PositiveInt | None = None
    """The snapshot of ``unlearn`` that is used; null: the last."""
    teachers: dict[str, Teacher] = Field(default_factory=lambda: {"main": Teacher()})
    """By name."""
    validation: Validation = Validation()
    signals: dict[str, Signal] = Field(default_factory=lambda: {"main": Signal()})
    """By name."""
    student: Student = Student()
    evaluate_teacher: str | None = "main"
    """The signal whose teacher is evaluated on the held-out problems whenever the policy is; null: none."""

    @model_validator(mode="after")
    def _consistent(self) -> Distil:
        _named("teachers", self.teachers)
        _named("signals", self.signals)
        for name, signal in self.signals.items():
            for teacher in signal.names():
                _known(f"distil.signals.{name}.teacher: {teacher}", teacher, self.teachers)
            if signal.weights and signal.reference in ("auto", "student"):
                raise ValueError(f"distil.signals.{name}.weights: {signal.reference} takes one teacher")
            if signal.reference == "student" and (signal.numerator, signal.on_right) != ("teacher", "all"):
                raise ValueError(
                    f"distil.signals.{name}: reference student takes the teacher as numerator and on_right "
                    "all; expected another reference beside anything else"
                )
        if len(self.signals) > 1 and not self.student.sequence:
            raise ValueError("distil.student.sequence: empty; expected an order of the several signals")
        for phase in self.student.sequence:
            _known(f"distil.student.sequence: {phase.signal}", phase.signal, self.signals)
        if self.evaluate_teacher is not None:
            _known(f"distil.evaluate_teacher: {self.evaluate_teacher}", self.evaluate_teacher, self.signals)
        self._check_ours()
        return self

    def _check_ours(self) -> None:
        """What the options that are not the paper's do not take."""
        student = self.student
        if not student.needs_teachers() or student.target == "teacher":
            return
        if len(self.phases()) > 1:
            raise ValueError("distil.student: exact targets and fresh answers take one signal")
        name, signal = self.phases()[0][0], self.signals[self.phases()[0][0]]
        plain = signal.numerator == "teacher" and signal.on_right == "all"
        if signal.reference in ("student", "omitted") or not plain:
            raise ValueError(
                f"distil.signals.{name}: exact targets and fresh answers take a fixed reference, the teacher "
                "and on_right all"
            )
        if student.target == "exact" and student.budget is None:
            raise ValueError("distil.student.target: exact is found for a budget; expected a number there")

    def phases(self) -> list[tuple[str, int]]:
        """The student's signals in order, each with its optimiser steps a pass."""
        steps = self.student.steps
        return [(phase.signal, phase.steps or steps) for phase in self.student.sequence] or [
            (name, steps) for name in self.signals
        ]

    def unlearns(self) -> bool:
        """Whether an unlearned policy may be asked for."""
        return self.recovers() or any(each.may_ask("unlearned") for each in self.signals.values())

    def recovers(self) -> bool:
        """Whether a teacher begins at the unlearned policy."""
        return any(teacher.start == "unlearned" for teacher in self.teachers.values())

    def rounds_back(self) -> set[int]:
        """Of the older students that may be asked for."""
        return {each.rounds_back for each in self.signals.values() if each.may_ask("older")}

    def validates(self) -> bool:
        """Whether snapshots are measured."""
        return any(
            signal.reference in ("auto", "ranked")
            or (signal.step == "best" and any(self.teachers[name].snapshot_every for name in signal.names()))
            for signal in self.signals.values()
        )

    def check(self, problems: int, samples: int, train_count: int) -> None:
        """What a round of so many problems with so many answers each cannot do; raises ``ValueError``."""
        for where, fit in (
            ("unlearn", self.unlearn),
            *((f"teachers.{n}", t) for n, t in self.teachers.items()),
        ):
            kept = len(fit.snapshots(problems))
            if kept > MOST_SNAPSHOTS:
                raise ValueError(
                    f"distil.{where}.snapshot_every: keeps {kept}; expected {MOST_SNAPSHOTS} at most"
                )
        for name, signal in self.signals.items():
            for teacher in signal.names():
                _kept(f"distil.signals.{name}.step", signal.step, self.teachers[teacher], problems)
        if self.unlearns() and self.unlearned_step is not None:
            _kept("distil.unlearned_step", self.unlearned_step, self.unlearn, problems)
        if self.validates() and problems + self.validation.problems > train_count:
            raise ValueError(
                f"distil.validation.problems: {self.validation.problems} and {problems} of a round; expected "
                f"at most task.train_count, {train_count}, together"
            )
        for _, steps in self.phases():
            if steps * (self.student.answers_per_step or 1) > problems * samples:
                raise ValueError(
                    f"distil.student.steps: {steps} steps are more than an epoch; expected answers for each, "
                    f"of {problems * samples} in a round"
                )


def _named(kind: str, found: Collection[str]) -> None:
    if not found:
        raise ValueError(f"distil.{kind}: none; expected at least one, by name")
    for name in found:
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"distil.{kind}.{name}: expected letters, digits, dashes and underscores")


def _known(where: str, name: str, among: Collection[str]) -> None:
    if name not in among:
        raise ValueError(f"{where}: no such name{nearest(name, among)}")


def _kept(where: str, step: int | str, fit: Fit, problems: int) -> None:
    kept = fit.snapshots(problems)
    if isinstance(step, int) and step not in kept:
        raise ValueError(f"{where}: {step} is not kept; expected one of {', '.join(map(str, kept))}")


def older_input(rounds_back: int) -> str:
    """The name, as a stage's input, of the base of so many rounds before this one."""
    return f"older_{rounds_back}"
