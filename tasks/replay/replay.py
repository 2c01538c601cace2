"""The stage ``replay``: this round's rollouts folded into a snapshot of the replay buffer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from algorithms import contract
from algorithms.correct import CORRECT
from algorithms.replay_buffer import Chooser, Evicted, ReplayBuffer
from params.base import BadInput
from params.schema import Replay
from tasks.artefacts.artefact import Artefact, write_json
from tasks.artefacts.tables import REPLAY, read_table, write_table
from tasks.core.stage import Job

BUFFER = "buffer.parquet"
RESULTS = "results.parquet"
STATE = "state.json"


def replay(job: Job) -> dict[str, float]:
    """``rollout`` and the previous snapshot ``replay``, if there is one, into this round's snapshot: evict,
    admit, store (DyJR's Algorithm 1), so that this round's update sees this round's answers in it.

    ``buffer.parquet`` holds the rows, ``results.parquet`` how each problem's last group went, ``state.json``
    the round in which admission started and the entropy that ``sizing: entropy`` compares with. The previous
    ``update`` is an input where the sizing follows the policy. Writes ``metrics.json``: rows, by birth
    round what stayed, what left and why, and how many entered of groups with how many right answers. Reads
    ``params.replay``, and the method where it has the say.
    """
    began = time.perf_counter()
    rules, measured = job.params.replay, Measured.of(job)
    buffer = opened(job.inputs.get("replay"), rules)
    fresh = read_table(job.inputs["rollout"].file("rollouts.parquet"))
    evicted = buffer.evict(job.round, measured.drift)
    choose = rule_of_method(job) if rules.admit == "method" else None
    fates = buffer.admit(fresh, job.round, measured.scale, choose)
    strata = _strata(buffer, fresh, job.round)
    evicted = _joined(evicted, buffer.trim())
    _write(job, buffer, buffer.to_table(), buffer.started, measured.reference)
    said = {
        "rows": len(buffer),
        "started": buffer.started,
        "retired": len(buffer.retired()) if buffer.rules.retire else 0,
        "offered": sum(fates.values()),
        "admitted": fates.get("admitted", 0),
        "refused": {why: count for why, count in fates.items() if why != "admitted"},
        "fill": fates.get("admitted", 0) / max(sum(fates.values()), 1),
        "strata": strata,
        "cohorts": _cohorts(buffer, evicted, job.round, measured),
        "scale": measured.scale,
    }
    write_json(job.out / "metrics.json", said)
    job.context.tell("replay", 1, 1, {"rows": float(len(buffer))})
    return {"seconds": time.perf_counter() - began}


def write_pool(job: Job, buffer: ReplayBuffer, rows: pa.Table, fates: Mapping[str, int]) -> None:
    """A snapshot that never changes, of ``rows`` of the buffer, and ``metrics.json``: how many, of how many
    problems, and what became of the answers."""
    _write(job, buffer, rows, job.round, None)
    said = {"rows": rows.num_rows, "problems": len(pc.unique(rows["problem_id"])), "fates": fates}
    write_json(job.out / "metrics.json", said)


def _write(
    job: Job, buffer: ReplayBuffer, rows: pa.Table, started: int | None, reference: float | None
) -> None:
    write_table(job.out / BUFFER, rows.cast(REPLAY))
    write_table(job.out / RESULTS, buffer.results)
    write_json(job.out / STATE, {"started": started, "reference_entropy": reference})


def rule_of_method(job: Job) -> Chooser:
    """The replay method's own rule of admission. Raises ``BadInput``."""
    choice = job.params.method.replay
    if choice is None:
        raise BadInput("replay.admit: method, but there is none; expected a method.replay, such as dyjr")
    part = contract.find(choice.name, "draw", "method.replay")
    config, rule = choice.resolve(part.Config, "method.replay"), part.admit
    if rule is None:
        raise BadInput(f"replay.admit: method.replay {choice.name} has no rule; expected correct or all")

    def choose(reward: Tensor, group: Tensor, eligible: Tensor) -> list[int]:
        return rule(reward, group, eligible, job.round, config)

    return choose


def _strata(buffer: ReplayBuffer, fresh: pa.Table, round: int) -> dict[str, int]:
    """Rows that entered, by the count of right answers of their group."""
    rows = buffer.to_table()
    entered = rows.filter(pc.equal(rows["round"], round))["group"].to_pylist()
    right = fresh.filter(pc.greater_equal(fresh["reward"], CORRECT))["group"].to_pylist()
    confidence = Counter(right)
    found = Counter(confidence[group] for group in entered)
    return {str(k): found[k] for k in sorted(found)}


def _joined(first: Evicted, second: Evicted) -> Evicted:
    """What left before and after the admissions."""
    return {born: first.get(born, {}) | second.get(born, {}) for born in sorted(first.keys() | second.keys())}


def opened(snapshot: Artefact | None, rules: Replay | None = None) -> ReplayBuffer:
    """The buffer of a snapshot, or an empty one."""
    if snapshot is None:
        return ReplayBuffer(rules, REPLAY.empty_table())
    table, results = read_table(snapshot.file(BUFFER)), read_table(snapshot.file(RESULTS))
    return ReplayBuffer(rules, table, results, snapshot.json(STATE)["started"])


class Measured(NamedTuple):
    """What the previous update says of the buffer; nothing where the sizing is by age alone."""

    drift: dict[int, float]
    """Divergence from the policy by birth round."""
    reference: float | None
    """The entropy (nats) of the first update that measured one."""
    scale: float
    """Of ``per_round``."""

    @classmethod
    def of(cls, job: Job) -> Measured:
        """From the inputs of the stage."""
        sizing, before, update = job.params.replay.sizing, job.inputs.get("replay"), job.inputs.get("update")
        said = update.json("metrics.json") if update else {}
        found, last = said.get("drift_by_age", {}) if sizing == "drift" else {}, job.round - 1
        drift = {last - int(age): value for age, value in found.items() if value is not None}
        entropy = said.get("entropy") if sizing == "entropy" else None
        first = before.json(STATE)["reference_entropy"] if before else None
        reference = entropy if first is None else first
        return cls(drift, reference, entropy / reference if entropy is not None and reference else 1.0)


def _cohorts(buffer: ReplayBuffer, evicted: Evicted, round: int, measured: Measured) -> dict[str, Any]:
    """Each birth round: rows that stay and why, rows that leave now and why."""
    rules, kept = buffer.rules, buffer.cohorts()
    said = {}
    for born in sorted(kept.keys() | evicted.keys()):
        drift = measured.drift.get(born)
        said[str(born)] = {
            "age": round - born,
            "drift": drift,
            "kept": kept.get(born, 0),
            "kept_as": _why(rules, round - born, drift) if kept.get(born) else None,
            "dropped": evicted.get(born, {}),
        }
    return said


def _why(rules: Replay, age: int, drift: float | None) -> str:
    young = f"age {age} of at most {rules.max_age}"
    if rules.sizing != "drift":
        return young
    if drift is None:
        return f"{young}, drift not measured"
    return f"{young}, drift {drift:.3g} of at most {rules.drift_bound:.3g}"
