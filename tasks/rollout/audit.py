"""The stage ``audit``: a second judge over a round's answers, and where it disagrees with the first."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from algorithms.correct import CORRECT
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import read_table, write_table
from tasks.core.stage import Job
from tasks.policy.job_policy import job_policy
from tasks.rollout.prompts import askable
from tasks.rollout.sampling import joined, sample

VERDICTS = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("group", pa.int32(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("first", pa.float32()),  # the run's own reward; null where it failed
        pa.field("second", pa.float32()),  # the other judge's
        pa.field("second_error", pa.string()),  # why it has none
    ]
)
DISAGREEMENTS = "disagreements.json"


def audit(job: Job) -> dict[str, float]:
    """``rollout`` and ``problems`` into ``verdicts.parquet``, ``metrics.json`` and ``disagreements.json``.

    ``agreement``: the share of the answers that both could judge which both call right, or both wrong;
    ``first_only`` and ``second_only``: those that one alone calls right. Null where there is no such answer.
    """
    began = time.perf_counter()
    given = job.inputs["rollout"]
    before = read_table(given.file("rollouts.parquet"))
    after = _judged(dataclasses.replace(job, answers=given), before)
    verdicts = _paired(before, after)
    write_table(job.out / "verdicts.parquet", verdicts)
    write_json(job.out / "metrics.json", _figures(verdicts))
    write_json(job.out / DISAGREEMENTS, _examples(job, before, verdicts))
    return {"seconds": time.perf_counter() - began}


def _judged(job: Job, before: pa.Table) -> pa.Table:
    """The same answers with the other judge's verdicts; groups may be of several sizes."""
    sizes = Counter(before["problem_id"].to_pylist())
    training, choice = askable(job).train, job.params.rollout
    options = (choice.temperature, choice.top_logprobs, choice.entropy)
    tables = []
    for size in sorted(set(sizes.values())):
        ids = pa.array([name for name, count in sizes.items() if count == size])
        problems = training.filter(pc.is_in(training["problem_id"], ids))
        problems = problems.append_column("hint", _hints(problems, before))
        tables.append(sample(job, "rollout", problems, size, *options).answers)
    return joined(tables)


def _hints(problems: pa.Table, before: pa.Table) -> pa.Array:
    """The beginnings of answers that were given with the prompts, by problem; null where there were none."""
    firsts = before.filter(pc.equal(before["sample"], 0))
    rows = zip(
        *(firsts[name].to_pylist() for name in ("problem_id", "prompt_ids", "hint_tokens")), strict=True
    )
    hints = {name: ids[-count:] for name, ids, count in rows if count}
    return pa.array([hints.get(name) for name in problems["problem_id"].to_pylist()], pa.list_(pa.int32()))


def _paired(before: pa.Table, after: pa.Table) -> pa.Table:
    found = zip(
        *(after[name].to_pylist() for name in ("problem_id", "sample", "reward", "reward_error")), strict=True
    )
    second = {(problem, place): (reward, error) for problem, place, reward, error in found}
    keys = zip(before["problem_id"].to_pylist(), before["sample"].to_pylist(), strict=True)
    rewards, errors = zip(*(second[key] for key in keys), strict=True)
    columns = {name: before[name] for name in ("problem_id", "group", "sample")}
    columns |= {"first": before["reward"], "second": list(rewards), "second_error": list(errors)}
    return pa.table(columns, schema=VERDICTS)


def _figures(verdicts: pa.Table) -> dict[str, Any]:
    both = verdicts.filter(pc.and_(verdicts["first"].is_valid(), verdicts["second"].is_valid()))
    one, two = (both[name].to_numpy() >= CORRECT for name in ("first", "second"))
    judged = verdicts["second"].drop_null().to_numpy().astype(np.float64)

    def share(which: np.ndarray) -> float | None:
        return float(which.mean()) if len(which) else None

    return {
        "answers": verdicts.num_rows,
        "judged_by_both": both.num_rows,
        "agreement": share(one == two),
        "first_only": share(one & ~two),
        "second_only": share(two & ~one),
        "reward_mean": float(judged.mean()) if len(judged) else None,
        "unjudged": verdicts["second"].null_count / verdicts.num_rows,
    }


def _examples(job: Job, before: pa.Table, verdicts: pa.Table) -> list[dict[str, Any]]:
    """The first answers, in the order of the round, that one judge alone calls right."""
    settings = job.params.audit
    assert settings is not None
    tokenizer, found = job_policy(job).tokenizer, list[dict[str, Any]]()
    training = askable(job).train
    asked = dict(zip(training["problem_id"].to_pylist(), training.to_pylist(), strict=True))
    for row, answer in zip(verdicts.to_pylist(), before["response_ids"], strict=True):
        first, second = row["first"], row["second"]
        if len(found) == settings.examples:
            break
        if None not in (first, second) and (first >= CORRECT) != (second >= CORRECT):
            problem = asked[row["problem_id"]]
            text = tokenizer.decode(answer.as_py(), skip_special_tokens=True)
            facts = {"question": problem["question"], "gold": problem["answer"], "response": text}
            found.append({**{name: row[name] for name in ("sample", "first", "second")}, **facts})
    return found
