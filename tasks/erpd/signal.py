"""``signal``: what the teachers say of each token of a round's answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from algorithms.erpd import (
    deviation,
    negative_part_on_right,
    positive_part_on_right,
    token_signal,
    whitened,
)
from params.distil import Signal
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import read_table, write_table
from tasks.core.segments import counts, responses_of
from tasks.core.stage import Job
from tasks.erpd.beside import Beside, beside
from tasks.erpd.policies import reference_of, teacher_step, teachers_of
from tasks.erpd.references import NONE, ChosenReference, added, choose, factors
from tasks.erpd.training import base_of
from tasks.policy.job_policy import job_policy

PARTS = {"all": None, "negative": negative_part_on_right, "positive": positive_part_on_right}
"""What stays of a log-ratio on right answers, by ``on_right``."""


def signal(job: Job) -> dict[str, float]:
    """``model``, ``rollout``, ``teach``, the round's base ``policy``, and what the signals need of
    ``unlearn``, ``validate`` and older policies, into ``signal.parquet``.

    A row for each row of the rollouts, in their order: ``base_logp``, and for each signal ``raw.NAME``, its
    log-ratio in nats, and ``signal.NAME``, normalised. ``metrics.json`` has for each signal its ``reference``
    and the evidence for it, the teachers' ``steps``, ``factors`` and ``divergence`` from the base (nats per
    token, over the whole vocabulary and the states of the answers), and the ``mean`` and ``std`` of what was
    normalised.
    """
    began = time.perf_counter()
    assert job.params.distil is not None
    signals = dict(sorted(job.params.distil.signals.items()))
    chosen = {name: choose(job, each) for name, each in signals.items()}
    table = read_table(job.inputs["rollout"].file("rollouts.parquet"))
    responses = responses_of(table)
    lengths = counts(responses)
    outcome = torch.tensor(table["reward"].to_numpy(), dtype=torch.float32)
    outcome = outcome.repeat_interleave(torch.tensor(lengths, dtype=torch.int64))
    given = (table["prompt_ids"].to_pylist(), responses, job.params.rollout.temperature)
    folders = {
        place: folder
        for name, each in signals.items()
        for place, folder in policies(job, name, each, chosen[name]).items()
    }
    base_logp, found = beside(job_policy(job), base_of(job), folders, *given)
    columns, said = {"base_logp": base_logp}, {}
    for name, each in signals.items():
        made = contrast(name, each, chosen[name], base_logp, found, outcome)
        columns |= {f"raw.{name}": made.raw, f"signal.{name}": made.normalised}
        said[name] = {**made.said, **_told(job, name, each, chosen[name], found)}
    cut = {name: [part.tolist() for part in x.float().split(lengths)] for name, x in columns.items()}
    schema = pa.schema([*_ROWS, *(pa.field(name, pa.list_(pa.float32()), nullable=False) for name in cut)])
    rows = {"group": table["group"], "sample": table["sample"], **cut}
    write_table(job.out / "signal.parquet", pa.table(rows, schema=schema))
    write_json(job.out / "metrics.json", said)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens_per_second": len(base_logp) / seconds}


_ROWS = (  # of the rollouts
    pa.field("group", pa.int32(), nullable=False),
    pa.field("sample", pa.int32(), nullable=False),
)


@dataclass(frozen=True)
class Contrast:
    """A signal at T tokens."""

    raw: Tensor
    """[T] the log-ratio, in nats."""
    normalised: Tensor
    """[T] what the student learns from."""
    said: dict[str, Any]
    """``mean`` and ``std`` of what was normalised, ``factors``, and ``live``, for a moving denominator."""


def policies(job: Job, name: str, signal: Signal, chosen: ChosenReference) -> dict[str, Path | None]:
    """The policies of a signal, under names of its own: its teachers and its reference."""
    found: dict[str, Path | None] = {f"{name} {of}": path for of, path in teachers_of(job, signal).items()}
    if chosen.reference not in (NONE, "base", "student", "omitted"):
        found[f"{name} reference"] = reference_of(job, signal, chosen.reference)
    return found


def contrast(
    name: str,
    signal: Signal,
    chosen: ChosenReference,
    base_logp: Tensor,
    found: Mapping[str, Beside],
    outcome: Tensor,
    fixed: Mapping[str, Any] | None = None,
) -> Contrast:
    """The signal of those policies, where ``outcome`` [T] is NaN or each token's answer's reward.

    ``fixed``: the ``said`` of earlier answers, whose factors, mean and deviation stand for these ones' too.
    """
    reference = found.get(f"{name} reference")
    zeros = torch.zeros_like(base_logp)
    to = zeros if chosen.reference == "omitted" else reference.logp if reference else base_logp
    fixed_part = {"base": base_logp, "omitted": zeros}.get(signal.numerator)
    own = {of: found[f"{name} {of}"].logp if fixed_part is None else fixed_part for of in signal.names()}
    parts = {of: signal.extrapolation * token_signal(logp, to) for of, logp in own.items()}
    weights = fixed["factors"] if fixed else factors(signal, parts)
    raw = added(parts, weights)
    if chosen.reference == NONE:
        raw = torch.zeros_like(raw)
    keep = PARTS[signal.on_right]
    kept = raw if keep is None else keep(raw, outcome)
    if signal.normalisation == "centred" and chosen.reference != NONE:
        to_reference = reference.from_base if reference else torch.zeros(())
        means = {of: to_reference - found[f"{name} {of}"].from_base for of in parts}
        expected = added(means, weights)
        kept = kept - signal.extrapolation * expected
        mean = 0.0
    else:
        mean = float(fixed["mean"]) if fixed else float(kept.double().mean())
    std = float(fixed["std"]) if fixed else deviation(kept)
    if fixed is None and signal.normalisation == "whitened":
        normalised = whitened(kept)
    else:
        normalised = (kept - mean) / std if std else torch.zeros_like(kept)
    said = {"mean": mean, "std": std, "factors": weights, "live": chosen.reference == "student"}
    return Contrast(raw, normalised, said)


def _told(
    job: Job, name: str, signal: Signal, chosen: ChosenReference, found: Mapping[str, Beside]
) -> dict[str, Any]:
    """Of the policies that a signal compares."""
    divergence = {of: found[f"{name} {of}"].divergence() for of in signal.names()}
    if f"{name} reference" in found:
        divergence["reference"] = found[f"{name} reference"].divergence()
    return {
        "asked": signal.reference,
        "reference": chosen.reference,
        **chosen.evidence,
        "steps": {of: teacher_step(job, signal, of) for of in signal.names()},
        "divergence": divergence,
    }
