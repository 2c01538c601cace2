"""A run as the report sees it: the record, the scores and answers of each evaluation, a row a round."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from params.schema import Params
from tasks.artefacts.artefact import Artefact, Damaged
from tasks.artefacts.digests import file_digest
from tasks.artefacts.record import Record, Step
from tasks.artefacts.tables import plain_columns, read_table, sampled_lengths, truncated
from tasks.core.seeds import numpy_generator
from tasks.evaluate.scores import Counts
from tasks.stats.intervals import NOTHING, Interval, mean_interval

Row = dict[str, float | int | None]

COLUMNS = (
    "round",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "greedy_accuracy",
    "entropy",
    "rank_1",
    "rank_2",
    "rank_3",
    "kl_to_base",
    "reward",
    "reward_low",
    "reward_high",
    "response_length",
    "response_tokens",
    "truncated",
    "unjudged",
    "surprisal",
    "loss",
    "clip_fraction",
    "gradient_norm",
    "mismatch",
    "mismatch_kl",
    "constant_groups",
    "refused_steps",
    "merge_loss",
    "seconds",
)
"""The columns of ``rounds.csv``. Row 0 is the base model. A policy's scores stand in the row of the round
that made it; what is said of answers (reward to surprisal) is said of those that the round learnt from."""

UPDATE_FIGURES = {
    "loss": "loss",
    "clip_fraction": "clip_fraction",
    "gradient_norm": "grad_norm",
    "mismatch": "mismatch",
    "mismatch_kl": "mismatch_kl",
    "constant_groups": "constant_groups",
    "refused_steps": "refused_steps",
    "merge_loss": "merge_loss",
}
"""Columns that come from an update's ``metrics.json``, and their names there."""


FIGURED = ("group", "reward", "finish_reason", "response_ids", "sampled", "behaviour_logp")
"""The columns of rollouts that the figures of a round are made of; the others may be many times as large."""


@dataclass(frozen=True)
class Done:
    """A step of the run and its artefact; None where that is not at hand."""

    step: Step
    artefact: Artefact | None

    @property
    def made_in(self) -> float:
        """Seconds that the making took, in this run or in the one that it is cached from."""
        if self.step.outcome == "made" or self.artefact is None:
            return self.step.seconds
        return self.artefact.manifest.measured.get("stage_seconds", self.step.seconds)


@dataclass(frozen=True)
class Evaluation:
    """One evaluated policy; round 0 is the base model."""

    round: int
    scores: dict[str, Any]
    answers: pa.Table

    def interval(self, *path: str) -> Interval:
        """A figure with its interval: ``interval("pass_at", "4")``."""
        found: Any = self.scores
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        return Interval(found["value"], found["low"], found["high"]) if found else NOTHING

    def number(self, name: str) -> float | None:
        """A figure without an interval."""
        return cast("float | None", self.scores.get(name))


@dataclass(frozen=True)
class RunData:
    """Everything that the report says, before it is put into words."""

    record: Record
    params: Params
    done: list[Done]
    evaluations: list[Evaluation]
    rounds: list[Row]

    @property
    def pass_at(self) -> tuple[int, ...]:
        """Every k of pass@k."""
        return self.params.evaluate.pass_at

    @property
    def width(self) -> str:
        """How wide the intervals are: ``95%``."""
        return f"{100 * self.params.evaluate.confidence:g}%"

    @property
    def base(self) -> Evaluation | None:
        """The base model's evaluation, if it has been made."""
        return next((e for e in self.evaluations if e.round == 0), None)

    @property
    def last(self) -> Evaluation | None:
        """The evaluation of the youngest policy, if any policy has been evaluated."""
        return self.evaluations[-1] if self.evaluations and self.evaluations[-1].round else None

    @property
    def rounds_done(self) -> int:
        """Rounds whose policy is finished."""
        return max((d.step.round for d in self.done if d.step.role.makes_policy), default=0)

    @functools.cached_property
    def change(self) -> Interval:
        """Mean change in a problem's accuracy from the base to the last policy, over the problems that both
        evaluations could judge."""
        if self.base is None or self.last is None:
            return NOTHING
        return change(self.params, self.last.round, self.base.answers, self.last.answers)


def collect(directory: Path) -> RunData:
    """Read a run, finished or not. Raises ``BadInput`` where none is, ``Damaged`` for a changed file."""
    record = Record.read(directory)
    params = record.parameters()
    done = [Done(step, _artefact(directory / step.place)) for step in record.steps]
    evaluations = [
        Evaluation(
            d.step.round,
            read_json(d.artefact, "scores.json"),
            read_rows(d.artefact, "answers.parquet", plain=True),
        )
        for d in sorted(done, key=lambda d: d.step.round)
        if d.step.stage == "evaluate" and d.artefact is not None
    ]
    return RunData(record, params, done, evaluations, _rows(done, evaluations, params))


def change(params: Params, round: int, before: pa.Table, after: pa.Table) -> Interval:
    """Mean change in a problem's accuracy from some answers to those of a later ``round``."""
    old, new = accuracy_by_problem(before), accuracy_by_problem(after)
    changes = np.array([new[p] - old[p] for p in old if p in new], dtype=np.float64)
    generator = numpy_generator(params.seed, "report", round, "change")
    return mean_interval(changes, params.evaluate.confidence, params.evaluate.bootstrap_samples, generator)


def accuracy_by_problem(answers: pa.Table) -> dict[str, float]:
    """Share of right answers among the sampled ones that the judge could judge, by problem."""
    counts = Counts.of(answers.filter(pc.invert(answers["greedy"])))
    return dict(zip(counts.problem, counts.accuracy().tolist(), strict=True))


def told_by(data: RunData, stage: str) -> list[tuple[int, dict[str, Any]]]:
    """``metrics.json`` of a stage by round, as far as it is at hand; raises ``Damaged``."""
    return sorted(
        (each.step.round, read_json(each.artefact, "metrics.json"))
        for each in data.done
        if each.step.stage == stage and each.artefact and "metrics.json" in each.artefact.manifest.files
    )


def metrics_of(data: RunData, stage: str) -> list[tuple[int, dict[str, float]]]:
    """The numbers in them."""
    return [
        (n, {k: v for k, v in said.items() if isinstance(v, int | float)}) for n, said in told_by(data, stage)
    ]


def read_json(artefact: Artefact, name: str) -> Any:
    """One JSON file of an artefact, checked; raises ``Damaged``."""
    return json.loads(_checked(artefact, name).read_bytes())


def read_rows(
    artefact: Artefact, name: str, plain: bool = False, columns: Sequence[str] | None = None
) -> pa.Table:
    """One table of an artefact, checked, or some ``columns`` of it, or with ``plain`` those without tokens;
    raises ``Damaged``."""
    path = _checked(artefact, name)
    return read_table(path, plain_columns(path) if plain else columns)


def _checked(artefact: Artefact, name: str) -> Path:
    """A file whose digest is the manifest's. The large files that a report never reads are not hashed."""
    path = artefact.file(name)
    if not path.is_file() or file_digest(path) != artefact.manifest.files[name].sha256:
        raise Damaged(f"{path}: its bytes do not match its digest; the run's command makes it again")
    return path


def _artefact(path: Path) -> Artefact | None:
    try:
        return Artefact.open(path, check=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _rows(done: list[Done], evaluations: list[Evaluation], params: Params) -> list[Row]:
    rows: dict[int, Row] = {}
    for each in done:
        if each.step.role.kind == "prepare":
            continue
        row = rows.setdefault(each.step.round, _empty(each.step.round))
        row["seconds"] = (row["seconds"] or 0.0) + each.made_in
        if each.artefact is None:
            continue
        if each.step.stage == "rollout":
            row.update(_answers_figures(each.artefact, params, each.step.round))
        elif (
            each.step.role.makes_policy and each.step.round and "metrics.json" in each.artefact.manifest.files
        ):
            written = read_json(each.artefact, "metrics.json")
            row.update({column: written.get(name) for column, name in UPDATE_FIGURES.items()})
    for evaluation in evaluations:
        rows.setdefault(evaluation.round, _empty(evaluation.round)).update(_evaluation_figures(evaluation))
    return [rows[round] for round in sorted(rows)]


def _empty(round: int) -> Row:
    return {**dict.fromkeys(COLUMNS), "round": round}


def _answers_figures(artefact: Artefact, params: Params, round: int) -> Row:
    """The same where the answers may have been dropped: then it was noted before."""
    thinned = artefact.thinned
    if thinned and "rollouts.parquet" in thinned.dropped:
        return dict(thinned.figures)
    return rollout_figures(read_rows(artefact, "rollouts.parquet", columns=FIGURED), params, round)


def rollout_figures(rollouts: pa.Table, params: Params, round: int) -> Row:
    """What the sampled answers of one round say of the policy that gave them."""
    lengths = sampled_lengths(rollouts)
    judged = rollouts.filter(pc.is_valid(rollouts["reward"]))
    groups = judged.group_by("group", use_threads=False).aggregate([("reward", "mean")])["reward_mean"]
    generator = numpy_generator(params.seed, "report", round, "reward")
    reward = mean_interval(groups.to_numpy().astype(np.float64), params.evaluate.confidence, 1000, generator)
    surprisal = pc.mean(pc.list_flatten(rollouts["behaviour_logp"])).as_py()
    return {
        **reward.named("reward"),
        "response_length": pc.mean(lengths).as_py(),
        "response_tokens": pc.sum(lengths).as_py(),
        "truncated": truncated(rollouts),
        "unjudged": len(rollouts) - len(judged),
        "surprisal": None if surprisal is None else -surprisal,
    }


def _evaluation_figures(evaluation: Evaluation) -> Row:
    ranks = evaluation.scores.get("rank_probabilities", [])
    figures: Row = {
        **evaluation.interval("mean_at_n").named("accuracy"),
        "greedy_accuracy": evaluation.interval("greedy").value,
        "entropy": evaluation.number("entropy"),
        "kl_to_base": evaluation.number("kl_to_base"),
        **{f"rank_{rank}": share for rank, share in enumerate(ranks, start=1)},
    }
    if evaluation.round == 0:
        figures |= {name: evaluation.number(name) for name in ("response_length", "truncated")}
    return figures
