"""Which policy a signal's teacher is compared with, and the evidence where that is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from algorithms.erpd import deviation, token_signal
from algorithms.ranking import ranking
from params.distil import Signal
from tasks.artefacts.tables import read_table
from tasks.core.segments import counts, responses_of
from tasks.core.stage import Job
from tasks.erpd.beside import Beside, beside
from tasks.erpd.policies import measures, reference_of, teacher_step, teachers_of
from tasks.erpd.training import base_of
from tasks.policy.job_policy import job_policy

NONE = "none"
"""No reference: the signal says nothing."""


@dataclass(frozen=True)
class ChosenReference:
    """What a signal's reference is in this round, and why."""

    reference: str
    """``base``, ``unlearned``, ``older``, ``student``, or ``NONE``."""
    evidence: dict[str, Any] = field(default_factory=dict)


def choose(job: Job, signal: Signal) -> ChosenReference:
    """The reference that was asked for, or for ``auto`` and ``ranked`` the one that is measured."""
    if signal.reference == "ranked":
        return _ranked(job, signal, ("base", "unlearned"), may_be_none=True)
    if signal.reference != "auto":
        return ChosenReference(signal.reference)
    step = teacher_step(job, signal, signal.teacher)
    found = measures(job)["teachers"][signal.teacher]["steps"][str(step)]
    gain, error = found["gain"], found["error"]
    evidence = {"gain": gain, "error": error, "teacher_step": step}
    if gain is not None and error is not None and gain > error:
        return ChosenReference("base", evidence)
    others: tuple[str, ...] = ("unlearned", "older") if signal.otherwise == "ranked" else (signal.otherwise,)
    if reference_of(job, signal, "older") == base_of(job):  # in the first rounds: S3 would be S1
        others = tuple(name for name in others if name != "older")
    if len(others) < 2:
        return ChosenReference(others[0] if others else "base", evidence)
    other = _ranked(job, signal, others, may_be_none=False)
    return ChosenReference(other.reference, {**evidence, **other.evidence})


def _ranked(job: Job, signal: Signal, among: Sequence[str], may_be_none: bool) -> ChosenReference:
    """Ours: the reference under which the summed log-ratio ranks the right validation answers highest.

    The first among equals, and where nothing could be compared. With ``may_be_none``, none where even the
    best ranks them lower than chance would. The evidence: ``auc`` by reference, its ``auc_error`` if it were
    chance, and the ``pairs`` of answers compared.
    """
    table = read_table(job.inputs["validate"].file("answers.parquet"))
    table = table.filter(table["reward"].is_valid())
    responses = responses_of(table)
    others = {**teachers_of(job, signal), **{f"to {name}": reference_of(job, signal, name) for name in among}}
    given = (table["prompt_ids"].to_pylist(), responses, job.params.rollout.temperature)
    _, found = beside(job_policy(job), base_of(job), others, *given)
    reward, group = (torch.tensor(table[name].to_numpy()) for name in ("reward", "group"))
    lengths = counts(responses)
    auc: dict[str, float | None] = {}
    error, pairs = None, 0
    for name in among:
        raw = log_ratio(signal, found, found[f"to {name}"].logp)
        score = torch.stack([part.sum() for part in raw.split(lengths)]).double()
        auc[name], pairs, error = ranking(score, reward, group)
    evidence = {"auc": auc, "auc_error": error, "pairs": pairs}
    known = {name: value for name, value in auc.items() if value is not None}
    if not known or error is None:
        return ChosenReference(among[0], evidence)
    best = max(known, key=lambda name: known[name])
    dropped = may_be_none and known[best] + 2.0 * error < 0.5
    return ChosenReference(NONE if dropped else best, evidence)


def log_ratio(signal: Signal, found: Mapping[str, Beside], reference_logp: Tensor) -> Tensor:
    """log pi_E - log pi_ref [T]; of several teachers, ours, the sum by ``factors``."""
    parts = {name: token_signal(found[name].logp, reference_logp) for name in signal.names()}
    return added(parts, factors(signal, parts))


def factors(signal: Signal, parts: Mapping[str, Tensor]) -> dict[str, float]:
    """How much of each teacher's log-ratio there is in the whole: 1 for one teacher; of several its weight
    over its deviation, scaled by their mean deviation."""
    if not signal.weights:
        return dict.fromkeys(parts, 1.0)
    spread = {name: deviation(part) for name, part in parts.items()}
    total = sum(abs(weight) for weight in signal.weights.values()) or 1.0
    typical = sum(spread.values()) / len(spread)
    return {n: signal.weights[n] / total * (typical / spread[n] if spread[n] else 0.0) for n in parts}


def added(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum."""
    return torch.stack([weights[name] * part for name, part in sorted(parts.items())]).sum(0)
