"""The runs of a comparison: what each policy got right, problem by problem, and what it had cost by then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Record
from tasks.artefacts.tables import read_table
from tasks.evaluate.scores import Counts
from tasks.report.cost import TRAINING
from tasks.report.curves import Figures, figures_of
from tasks.report.format import flat
from tasks.report.run.data import read_json
from tasks.stats.two_level_bootstrap import Floats

ACCURACY = "accuracy"
AXES = {
    "round": "rounds",
    "tokens": "sampled tokens",
    "trained": "trained tokens",
    "minutes": "minutes of stage time",
    "kl": "KL to the base, nats per token",
}
"""What a curve may be read against."""
KL, ENTROPY = "evaluate.kl_to_base", "evaluate.entropy"


@dataclass(frozen=True)
class Outcome:
    """A run of the comparison that has come to its end."""

    arm: str
    seed: int
    directory: Path
    rounds: int
    """Rounds that it was to have."""
    diverged: bool
    """It ended before its last round, because its loss or gradients were no longer finite."""


@dataclass(frozen=True)
class Measured:
    """An evaluated policy of a run, and what making it had cost."""

    round: int
    problems: dict[str, Floats]
    """By metric (``accuracy``, ``greedy``, ``pass@4``): a value for each problem of the seed; NaN: none."""
    at: dict[str, float]
    """Its place on each of ``AXES``."""


@dataclass
class Totals:
    """What a whole run took."""

    sampled_tokens: float = 0.0
    trained_tokens: float = 0.0
    sampling: float = 0.0
    """Seconds, as all below."""
    learning: float = 0.0
    evaluation: float = 0.0
    orchestration: float = 0.0
    """What this making of the run took beyond its stages: checks, links, waits for one another, Prefect."""
    peak_memory: float = 0.0
    """Bytes: the largest that a process which learnt ever held."""


@dataclass
class Compared:
    """A run of the comparison, as it was read."""

    arm: str
    seed: int
    record: Record
    params: Params
    diverged: bool
    rounds: int
    totals: Totals = field(default_factory=Totals)
    measured: list[Measured] = field(default_factory=list)
    figures: Figures = field(default_factory=dict)
    first_rollout: str = ""
    """Content digest of the first round's rollouts."""
    last: Artefact | None = None
    """The last evaluation."""
    base: Artefact | None = None
    """That of the base model."""

    @property
    def final(self) -> Measured | None:
        """The last policy, where the run came to its last round."""
        return self.measured[-1] if self.measured and self.measured[-1].round == self.rounds else None

    def at(self, round: int) -> Measured | None:
        """The policy after that round, where it was evaluated."""
        return next((each for each in self.measured if each.round == round), None)

    def figure(self, metric: str, round: int | None = None) -> float | None:
        """A figure (``STAGE.NAME``) of a round, the last one by default; None where it has none."""
        return self.figures.get(metric, {}).get(self.rounds if round is None else round)


def read_runs(outcomes: Sequence[Outcome]) -> list[Compared]:
    """Every run with its evaluations; problems of one seed are in the same order for all methods."""
    order: dict[int, list[str]] = {}
    return [_read(outcome, order) for outcome in outcomes]


def _read(outcome: Outcome, order: dict[int, list[str]]) -> Compared:
    record = Record.read(outcome.directory)
    params = record.parameters()
    run = Compared(outcome.arm, outcome.seed, record, params, outcome.diverged, outcome.rounds)
    run.figures = figures_of(outcome.directory)
    made = 0.0
    for step in sorted(record.steps, key=lambda step: (step.round, step.stage == "evaluate")):
        artefact = Artefact.open(outcome.directory / step.place, check=False)
        _add(run.totals, artefact)
        made += artefact.manifest.measured.get("stage_seconds", 0.0) if step.outcome == "made" else 0.0
        if step.stage == "evaluate":
            run.measured.append(_measured(run, step.round, artefact, order))
            run.last = artefact
            if step.round == 0:
                run.base = artefact
        elif step.stage == "rollout" and step.round == 1:
            run.first_rollout = artefact.digest
    run.totals.orchestration = max(0.0, record.seconds - made)
    return run


def _add(totals: Totals, artefact: Artefact) -> None:
    measured, time_of = artefact.manifest.measured, artefact.manifest.role.time_of
    if time_of is not None:
        seconds = getattr(totals, time_of) + measured.get("stage_seconds", 0.0)
        setattr(totals, time_of, seconds)
    if time_of in TRAINING:
        totals.sampled_tokens += measured.get("sampled_tokens", 0.0)
    if time_of == "learning":
        totals.peak_memory = max(totals.peak_memory, measured.get("peak_memory_bytes", 0.0))
        if "metrics.json" in artefact.manifest.files:
            totals.trained_tokens += read_json(artefact, "metrics.json").get("trained_tokens") or 0.0


def _measured(run: Compared, round: int, artefact: Artefact, order: dict[int, list[str]]) -> Measured:
    totals = run.totals
    at = {
        "round": float(round),
        "tokens": totals.sampled_tokens,
        "trained": totals.trained_tokens,
        "minutes": (totals.sampling + totals.learning) / 60,
        "kl": run.figure(KL, round) or 0.0,
    }
    columns = ("problem_id", "level", "reward", "greedy")
    problems = by_problem(read_table(artefact.file("answers.parquet"), columns), run, order)
    return Measured(round, problems, at)


def by_problem(answers: pa.Table, run: Compared, order: dict[int, list[str]]) -> dict[str, Floats]:
    """Each metric's value per problem, in the order of the seed's problems."""
    known = order.setdefault(run.seed, pc.unique(answers["problem_id"]).to_pylist())
    sampled = answers.filter(pc.invert(answers["greedy"]))
    passes = {f"pass@{k}": k for k in run.params.evaluate.pass_at if k > 1}
    return {
        ACCURACY: _placed(sampled, known, None),
        "greedy": _placed(answers.filter(answers["greedy"]), known, None),
        **{name: _placed(sampled, known, k) for name, k in passes.items()},
    }


def _placed(answers: pa.Table, known: list[str], k: int | None) -> Floats:
    counts = Counts.of(answers)
    enough = counts.judged >= (k or 1)
    values = counts.accuracy() if k is None else counts.pass_at(k)
    by_name = dict(zip(counts.problem[enough], values, strict=True))
    return np.array([by_name.get(name, np.nan) for name in known])


def differences(run: Compared, baseline: Compared) -> dict[str, tuple[Any, Any]]:
    """Parameters that differ, by dotted key: the run's value and the baseline's; None where there is none."""
    mine, theirs = flat(run.record.params), flat(baseline.record.params)
    keys = [key for key in {**theirs, **mine} if key not in ("seed", "rounds")]
    found = {key: (mine.get(key), theirs.get(key)) for key in keys}
    return {key: pair for key, pair in found.items() if pair[0] != pair[1]}
