"""Runs of several methods and seeds that no model made, for the page of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from params.base import validate
from params.comparison import Comparison
from params.load import compose
from tasks.artefacts.record import Record
from tasks.report.comparison.data import AXES, Compared, Measured, Outcome
from tasks.report.comparison.stats import Results
from tests.tasks.report.synthetic_run import SyntheticRun

LIFT = {"grpo": -0.3, "drpo": 0.1, "dyjr": -0.29}
"""What a method adds to the chance of a right answer after the base model."""


class Method(SyntheticRun):
    """A run whose skill depends on its method, and whose luck on its seed."""

    def __init__(self, directory: Path, method: str, seed: int, **more: Any) -> None:
        super().__init__(directory, seed=seed, **more)
        evaluated = self.params.evaluate.model_copy(update={"pass_at": (1, 2, 4)})
        self.params = self.params.model_copy(update={"evaluate": evaluated})
        self.record.params = self.params.model_dump(mode="json")
        self._chance = np.random.default_rng([seed, *method.encode()])
        self._lift = LIFT[method] + 0.02 * np.random.default_rng(seed).standard_normal()
        self._round_now = 0
        tokens = 1500.0 if method == "dyjr" else 1000.0
        self.measured = {"rollout": {"sampled_tokens": tokens}, "update": {"peak_memory_bytes": 7e8}}
        if method == "drpo":
            self.record.params["method"] = {**self.record.params["method"], "aggregation": "constant"}

    def _evaluate(self, out: Path, round: int) -> None:
        self._round_now = round
        super()._evaluate(out, round)

    def _answer(self, gold: str, chance: float) -> tuple[str, float | None, str | None, bool]:
        better = self._lift if self._round_now else 0.0
        return super()._answer(gold, float(np.clip(chance + better, 0.0, 1.0)))


def a_comparison(
    root: Path, seeds: int = 3, hostile: bool = False
) -> tuple[Comparison, list[Outcome], dict[str, Any]]:
    """What is compared, its runs, written below ``root``, and the facts of its making."""
    comparison = validate(
        Comparison,
        {
            "title": "Three methods",
            "question": "Which?",
            "base": {"task": "arithmetic"},
            "arms": {name: {"method": name} for name in LIFT},
            "baseline": "grpo",
            "seeds": seeds,
            "budget": {"rounds": 10},
        },
    )
    outcomes, runs = [], []
    for arm in LIFT:
        for seed in range(seeds):
            name = f"three-{arm}-s{seed}"
            place = Method(root / name, arm, seed, rounds=10, hostile=hostile and arm == "drpo").write()
            outcomes.append(Outcome(arm, seed, place, 10, False))
            counts = {"made": 20, "cached": 5, "seconds": 12.0, "outcome": "finished", "why": ""}
            runs.append({"name": name, "arm": arm, "seed": seed, **counts})
    command = "ostinato compare --methods grpo,drpo,dyjr --seeds 3"
    return comparison, outcomes, {"name": "three", "command": command, "runs": runs}


def in_memory(comparison: Comparison, figures: dict[str, dict[int, dict[str, list[Any]]]]) -> Results:
    """Runs that no file holds, by arm and seed: figures by round, of which ``accuracy`` is held out.

    A run with fewer rounds of accuracy than the comparison has diverged; None stands for no value.
    """
    params = compose("nano", "sums", "grpo", [])
    record = Record(name="x", command="", params={}, started="")
    runs = []
    for arm, by_seed in figures.items():
        for seed, given in by_seed.items():
            held_out = given.get("accuracy", [0.5] * (comparison.rounds + 1))
            diverged = len(held_out) <= comparison.rounds
            run = Compared(arm, seed, record, params, diverged, comparison.rounds)
            run.figures = {name: dict(enumerate(values)) for name, values in given.items() if "." in name}
            run.measured = [
                Measured(r, {"accuracy": np.array([v, v], dtype=float)}, dict.fromkeys(AXES, float(r)))
                for r, v in enumerate(held_out)
            ]
            runs.append(run)
    return Results(comparison, runs)
