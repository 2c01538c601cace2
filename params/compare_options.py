"""What `ostinato compare` is given: the names of methods, of which it makes a comparison."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from params.base import BadInput, nearest
from params.budget import Budget, read_budget
from params.comparison import NAME, Arm, Base, Comparison
from params.load import compose, presets


@dataclass(frozen=True)
class CompareOptions:
    """The options of the command, and the parameters of the flow."""

    methods: Sequence[str]
    """Presets or YAML files, as after ``--method``; the first is the baseline unless another is named."""
    seeds: int = 3
    task: str = "sums"
    model: str = "nano"
    baseline: str | None = None
    budget: str | None = None
    """``rounds=20``, ``tokens=200000``, ``minutes=10``; None: the rounds of the presets."""
    settings: Sequence[str] = ()
    name: str | None = None
    workers: int = 2

    def arguments(self) -> list[str]:
        """The words of the command line that repeats it."""
        said = ["--methods", ",".join(self.methods), "--seeds", str(self.seeds)]
        said += ["--task", self.task, "--model", self.model]
        for option in ("baseline", "budget", "name"):
            given = getattr(self, option)
            said += [f"--{option}", given] if given else []
        return [*said, *(part for setting in self.settings for part in ("--set", setting))]

    def comparison(self) -> tuple[str, Comparison]:
        """Its name, and what is to be compared. Raises ``BadInput``."""
        arms = self._arms()
        names = list(arms)
        baseline = arm_name(self.baseline) if self.baseline else names[0]
        if baseline not in arms:
            raise BadInput(f"--baseline {self.baseline}: not among the methods{nearest(baseline, arms)}")
        budget = read_budget(self.budget) if self.budget else None
        first = compose(self.model, self.task, self.methods[0], self.settings)
        return self._name(), Comparison(
            title=f"{', '.join(names)} on {self.task} with {self.model}",
            question="Which of these methods helps at equal cost?",
            base=Base(model=self.model, task=self.task, set=()),
            arms=arms,
            baseline=baseline,
            seeds=self.seeds,
            budget=budget or Budget(rounds=first.rounds),
            confidence=first.evaluate.confidence,
        )

    def _arms(self) -> dict[str, Arm]:
        arms: dict[str, Arm] = {}
        for method in self.methods:
            known = presets("methods")
            if method not in known and Path(method).suffix not in (".yaml", ".yml"):
                raise BadInput(f"--methods {method}: no such method{nearest(method, known)}")
            if arm_name(method) in arms:
                raise BadInput(f"--methods: {method} stands there twice; expected each once")
            arms[arm_name(method)] = Arm(method=method)
        if not arms:
            raise BadInput(
                "--methods: names nothing; expected methods with commas between, such as grpo,drpo"
            )
        return arms

    def _name(self) -> str:
        if self.name is None:
            return re.sub(r"[^a-z0-9._-]+", "-", f"{self.task}-{self.model}".lower()).strip("-.")
        if not NAME.fullmatch(self.name):
            raise BadInput(
                f"--name {self.name}: expected lower-case letters, digits, dots, dashes, underscores"
            )
        return self.name


def methods_of(text: str) -> tuple[str, ...]:
    """Methods with commas between."""
    return tuple(method.strip() for method in text.split(",") if method.strip())


def arm_name(method: str) -> str:
    """What a method is called in a comparison: its preset's name, or its file's."""
    name = Path(method).stem if Path(method).suffix in (".yaml", ".yml") else method
    if not NAME.fullmatch(name):
        raise BadInput(f"--methods {method}: expected a file named in lower-case letters, digits, dashes")
    return name
