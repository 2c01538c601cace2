"""What the runs of a study say together: one long table of curves, and statistics over seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from params.lab import Lab, Metric
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Record, Step
from tasks.core.numbers import finite
from tasks.report.run.data import read_json
from tasks.stats.paired_tests import Change, holm, paired, student

FILES = ("metrics.json", "scores.json")
"""Files of an artefact that hold its figures."""
PLAIN = re.compile(r"[A-Za-z0-9_@-]+(\.[A-Za-z0-9_@-]+)*")
"""A key that names a figure; one that is a sentence (the reason of a failed judgement) does not."""
SETTINGS = {"round", "confidence"}
"""Keys beside the figures that are none."""

CURVES = pa.schema(
    [
        pa.field("arm", pa.string(), nullable=False),
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),  # STAGE.NAME
        pa.field("round", pa.int32(), nullable=False),
        pa.field("value", pa.float64()),  # null where it was not finite, or nothing was measured
    ]
)

Series = Mapping[int, float | None]
"""A value by round."""


@dataclass(frozen=True)
class Outcome:
    """A run of the study that has come to its end."""

    arm: str
    seed: int
    directory: Path
    rounds: int
    """Rounds that it was to have."""
    diverged: bool
    """It ended before its last round, because its loss or gradients were no longer finite."""


def curves(outcomes: Sequence[Outcome]) -> pa.Table:
    """Every figure of every round of these runs. Raises ``Damaged`` for a file that has been changed.

    Beside what a stage's ``metrics.json`` or ``scores.json`` holds stands what it cost, as
    ``STAGE.measured.NAME``: that varies from one making to the next.
    """
    rows: list[tuple[str, int, str, int, float | None]] = []
    for outcome in outcomes:
        steps = {step.place: step for step in Record.read(outcome.directory).steps}
        for step in steps.values():
            if step.role.kind != "prepare":
                found = _figures(outcome.directory, step)
                rows += [(outcome.arm, outcome.seed, name, step.round, value) for name, value in found]
    arms = list(dict.fromkeys(outcome.arm for outcome in outcomes))
    rows.sort(key=lambda row: (arms.index(row[0]), *row[1:4]))
    columns = zip(*rows, strict=True) if rows else ([] for _ in CURVES)
    return pa.table([list(column) for column in columns], schema=CURVES)


def flattened(prefix: str, value: Any) -> Iterator[tuple[str, float | None]]:
    """The figures in a JSON value, each with its dotted name.

    A figure with an interval over problems gives its value: the study has an interval over seeds. A list is
    counted from 1. A mapping of mappings is a table and no figure.
    """
    if _is_interval(value):
        value = value["value"]
    if value is None or isinstance(value, bool | int | float):
        yield prefix, None if value is None else finite(float(value))
    elif isinstance(value, list):
        for place, item in enumerate(value, start=1):
            if isinstance(item, int | float):
                yield f"{prefix}.{place}", finite(float(item))
    elif isinstance(value, dict):
        inside = "." in prefix
        for key, item in value.items():
            is_table = inside and isinstance(item, dict) and not _is_interval(item)
            if PLAIN.fullmatch(key) and key not in SETTINGS and not is_table:
                yield from flattened(f"{prefix}.{key}", item)


def _is_interval(value: Any) -> bool:
    return isinstance(value, dict) and {"value", "low", "high"} <= value.keys()


def _figures(directory: Path, step: Step) -> Iterator[tuple[str, float | None]]:
    artefact = Artefact.open(directory / step.place, check=False)
    for name in FILES:
        if name in artefact.manifest.files:
            yield from flattened(step.stage, read_json(artefact, name))
    yield from flattened(f"{step.stage}.measured", artefact.manifest.measured)


class Study:
    """The curves of a study, and the questions that are asked of them."""

    def __init__(self, lab: Lab, outcomes: Sequence[Outcome], table: pa.Table) -> None:
        self.lab = lab
        self.outcomes = outcomes
        self.table = table
        self._series: dict[tuple[str, str, int], dict[int, float | None]] = {}
        wanted = set(lab.wanted())
        columns = (table[name].to_pylist() for name in ("arm", "seed", "metric", "round", "value"))
        for arm, seed, metric, round, value in zip(*columns, strict=True):
            if metric in wanted:
                self._series.setdefault((metric, arm, seed), {})[round] = value

    def series(self, metric: str, arm: str, seed: int) -> Series:
        """A metric by round; empty where the run has none."""
        return self._series.get((metric, arm, seed), {})

    def metrics(self) -> set[str]:
        """The names in the table."""
        return set(self.table["metric"].unique().to_pylist())

    def arms(self) -> list[str]:
        """The arms of which at least one run has come to its end."""
        ended = {outcome.arm for outcome in self.outcomes}
        return [arm for arm in self.lab.arms if arm in ended]

    def of(self, arm: str) -> list[Outcome]:
        """The runs of an arm."""
        return [outcome for outcome in self.outcomes if outcome.arm == arm]

    def final(self, metric: str, arm: str) -> dict[int, float]:
        """The metric after the last round, a value a seed; without the seeds that did not get there."""
        found = {o.seed: self.series(metric, arm, o.seed).get(o.rounds) for o in self.of(arm)}
        return {seed: value for seed, value in found.items() if value is not None}

    def best(self, metric: str, arm: str, better: str) -> dict[int, float]:
        """The best value over the rounds, that of the base model included, a value a seed."""
        choose = max if better == "higher" else min
        found = {}
        for outcome in self.of(arm):
            values = [v for v in self.series(metric, arm, outcome.seed).values() if v is not None]
            if values:
                found[outcome.seed] = choose(values)
        return found

    def collapsed(self, arm: str) -> float:
        """The share of its seeds whose accuracy ended below half of their best, or not finite."""
        metric = self.lab.accuracy
        final, best = self.final(metric, arm), self.best(metric, arm, "higher")
        gone = [o.diverged or o.seed not in final or final[o.seed] < best[o.seed] / 2 for o in self.of(arm)]
        return sum(gone) / len(gone)

    def summary(self) -> dict[str, Any]:
        """Everything that ``summary.json`` says of the figures."""
        return {
            "arms": {arm: self._arm(arm) for arm in self.arms()},
            "metrics": {name: self._metric(name, metric) for name, metric in self.lab.metrics.items()},
        }

    def _arm(self, arm: str) -> dict[str, Any]:
        runs = self.of(arm)
        return {
            "method": self.lab.arms[arm].method or self.lab.base.method,
            "set": list(self.lab.arms[arm].set),
            "seeds": len(runs),
            "diverged": sum(run.diverged for run in runs),
            "collapsed": self.collapsed(arm),
        }

    def _metric(self, name: str, metric: Metric) -> dict[str, Any]:
        changes = self._changes(name)
        adjusted = dict(zip(changes, holm([change.p for change in changes.values()]), strict=True))
        found: dict[str, Any] = {}
        for arm in self.arms():
            found[arm] = {"final": self._over_seeds(self.final(name, arm))}
            if metric.better:
                found[arm]["best"] = self._over_seeds(self.best(name, arm, metric.better))
            if arm in changes:
                change = changes[arm]
                tested = {"p": change.p, "p_holm": adjusted[arm], "pairs": change.pairs}
                found[arm]["change"] = asdict(change.interval) | tested
        return {"label": metric.label or name, "arms": found}

    def _changes(self, metric: str) -> dict[str, Change]:
        """Each other arm's final value against the baseline's: the family that Holm's correction is over."""
        baseline = self.lab.baseline
        if baseline not in self.arms():
            return {}
        against = self.final(metric, baseline)
        return {
            arm: paired(self.final(metric, arm), against, self.lab.confidence)
            for arm in self.arms()
            if arm != baseline
        }

    def _over_seeds(self, values: Mapping[int, float]) -> dict[str, Any]:
        interval = student(list(values.values()), self.lab.confidence)
        return {**asdict(interval), "seeds": len(values), "by_seed": {str(k): v for k, v in values.items()}}
