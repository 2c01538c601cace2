"""A comparison: arms, seeds, for how long, by which figures. A study is one that is kept in a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from params.base import BadInput, Config, nearest, validate
from params.budget import MOST_ROUNDS, Budget
from params.load import PRESETS, compose, presets, read_yaml
from params.schema import Params

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
METRIC = re.compile(r"[a-z_]+(\.[A-Za-z0-9_@-]+)+")


class Metric(Config):
    """A figure of the comparison, as ``STAGE.NAME`` in ``curves.parquet``, and how it is shown."""

    label: str = ""
    """What people call it; empty: its name."""
    percent: bool = False
    """Write it as a percentage."""
    better: Literal["higher", "lower"] | None = None
    """Which way is better; the best value over the rounds is told of metrics that have one."""
    chart: bool = True
    """Draw its curve."""
    table: bool = True
    """Give it a column in the tables."""


class Pair(Config):
    """Two figures of one policy, as ``STAGE.NAME`` in ``curves.parquet``."""

    x: str
    """What it cost."""
    y: str
    """What it brought."""


class Frontier(Config):
    """What one figure costs in another: every arm's way through the rounds, one against the other."""

    label: str = ""
    """What people call it; empty: its name."""
    x: str = "evaluate.kl_to_base"
    """What is spent; it rises over the rounds."""
    x_label: str = "KL to the base, nats per token"
    """What people call that."""
    y: str = "evaluate.mean_at_n"
    """What is gained."""
    y_label: str = "held-out accuracy"
    """What people call that."""
    percent: bool = True
    """Write ``y`` as a percentage."""
    gain: bool = False
    """Take ``y`` of the base model, round 0, from every ``y``, seed by seed: base models differ by seed."""
    beside: dict[str, Pair] = Field(default_factory=dict)
    """Further curves, of the arms that have them: ``teacher`` of the arm ``erpd`` is its ``erpd teacher``."""
    at_x: tuple[float, ...] = ()
    """Where ``y`` is read off each curve."""
    at_y: tuple[float, ...] = ()
    """Where ``x`` is read off each curve."""

    def names(self) -> tuple[str, ...]:
        """The metrics that it needs."""
        return (self.x, self.y, *(name for pair in self.beside.values() for name in (pair.x, pair.y)))


class Base(Config):
    """What all arms share."""

    model: str = "nano"
    """A model, as after ``--model``."""
    task: str = "sums"
    """A task, as after ``--task``."""
    method: str = "grpo"
    """A method, as after ``--method``, for arms that name none."""
    set: tuple[str, ...] = ()
    """Parameters, each ``key=value``, as after ``--set``."""


class Arm(Config):
    """One of the things compared."""

    method: str | None = None
    """A method, as after ``--method``; null: the base's."""
    set: tuple[str, ...] = ()
    """Parameters, each ``key=value``, laid over the base's."""


class Comparison(Config):
    """Arms that are compared: every arm runs once with every seed."""

    title: str
    """A few words."""
    question: str
    """What it asks, in one sentence."""
    base: Base = Base()
    """What all arms share."""
    arms: Annotated[dict[str, Arm], Field(min_length=1)]
    """What is compared, by name."""
    baseline: str = ""
    """The arm that the others are compared with; empty: the first."""
    seeds: PositiveInt
    """How many; seed 0, 1, … of every arm are paired."""
    rounds: PositiveInt = MOST_ROUNDS
    """Rounds of every run; where it has a budget in tokens or minutes: at most."""
    budget: Budget | None = None
    """What every run may spend, instead of ``rounds``."""
    accuracy: str = "evaluate.mean_at_n"
    """The metric by which a run counts as collapsed: it ended below half of its best."""
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    """Coverage of the intervals."""
    metrics: dict[str, Metric] = Field(default_factory=dict)
    """What is charted and tabulated beside what every comparison shows, by name in ``curves.parquet``."""
    frontiers: dict[str, Frontier] = Field(default_factory=dict)
    """What is charted against each other, by name of the chart."""

    def wanted(self) -> tuple[str, ...]:
        """Every metric that it asks for, once."""
        more = (name for frontier in self.frontiers.values() for name in frontier.names())
        return tuple(dict.fromkeys((*self.metrics, self.accuracy, *more)))

    @model_validator(mode="after")
    def _consistent(self) -> Comparison:
        for name in self.arms:
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"arms.{name}: expected a name of lower-case letters, digits, dots, dashes, underscores"
                )
        for name in self.frontiers:
            if not NAME.fullmatch(name):
                raise ValueError(f"frontiers.{name}: expected a name of lower-case letters, digits, dashes")
        for name in self.wanted():
            if not METRIC.fullmatch(name):
                raise ValueError(f"metrics.{name}: expected STAGE.NAME, such as evaluate.mean_at_n")
        if "rounds" not in self.model_fields_set and self.budget is None:
            raise ValueError("rounds: missing; expected a value here, or a budget")
        if "rounds" in self.model_fields_set and self.budget and self.budget.rounds:
            raise ValueError("budget.rounds: rounds says so already; expected one of them")
        if self.baseline and self.baseline not in self.arms:
            raise ValueError(f"baseline: no arm '{self.baseline}'{nearest(self.baseline, self.arms)}")
        return self


@dataclass(frozen=True)
class Trial:
    """One run of a comparison: an arm with a seed."""

    name: str
    """Of the run: ``NAME-ARM-sSEED``."""
    arm: str
    seed: int
    presets: tuple[str, str, str]
    """Model, task and method."""
    settings: tuple[str, ...]
    """``key=value``, later ones winning."""
    params: Params
    budget: Budget | None = None
    """Of tokens or minutes; ``params.rounds`` is then the most that it may take."""


def read_study(given: str) -> tuple[str, Comparison]:
    """A study and its name: a preset of ``params/labs``, or a YAML file of one's own. Raises ``BadInput``."""
    path = Path(given) if Path(given).suffix in (".yaml", ".yml") else PRESETS / "labs" / f"{given}.yaml"
    if path.parent == PRESETS / "labs" and given not in presets("labs"):
        raise BadInput(f"lab {given}: no such study{nearest(given, presets('labs'))}")
    if not NAME.fullmatch(path.stem):
        raise BadInput(f"{path}: expected a file named in lower-case letters, digits, dashes, underscores")
    content = read_yaml(path)
    try:
        return path.stem, validate(Comparison, content)
    except BadInput as error:
        raise BadInput(f"{path.name}: {error}") from None


def narrowed(study: Comparison, arms: Iterable[str] | None, seeds: int | None) -> Comparison:
    """The study with some of its arms only, or with another count of seeds. Raises ``BadInput``.

    Without its baseline, the first of the arms that are left takes its place.
    """
    chosen = list(study.arms) if arms is None else list(arms)
    for name in chosen:
        if name not in study.arms:
            raise BadInput(f"--arms {name}: no such arm{nearest(name, study.arms)}")
    kept = {name: arm for name, arm in study.arms.items() if name in chosen}
    changes = {"arms": kept, "seeds": study.seeds if seeds is None else seeds}
    baseline = study.baseline if study.baseline in kept else next(iter(kept))
    return study.model_copy(update={**changes, "baseline": baseline})


def trials(name: str, comparison: Comparison, settings: Sequence[str] = ()) -> list[Trial]:
    """Every run, arm by arm; ``settings`` are laid over all else. Raises ``BadInput``.

    Neighbours have different seeds: what runs side by side does not wait for the same artefacts.
    """
    found = []
    given, base = comparison.budget, comparison.base
    budget = given if given and given.rounds is None else None
    limit = (f"rounds={(given and given.rounds) or comparison.rounds}",)
    for arm_name, arm in comparison.arms.items():
        presets_of_arm = (base.model, base.task, arm.method or base.method)
        common = ("threads=1", *(() if budget else limit), *base.set, *arm.set, *settings)
        for text in common:
            if text.partition("=")[0].strip() == "seed":
                raise BadInput(f"{text}: every run has a seed of its own; expected --seeds COUNT instead")
        for seed in range(comparison.seeds):
            chosen = (*common, f"seed={seed}")
            try:
                params = compose(*presets_of_arm, (*limit, *chosen))
            except BadInput as error:
                raise BadInput(f"{name}: arm {arm_name}: {error}") from None
            run = f"{name}-{arm_name}-s{seed}"
            found.append(Trial(run, arm_name, seed, presets_of_arm, chosen, params, budget))
    return found
