"""Answers to problems, sampled and judged at the same time: what ``rollout`` and ``evaluate`` share."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tasks.artefacts.tables import ROLLOUTS
from tasks.core.seeds import seed
from tasks.core.stage import Job
from tasks.engines import selection
from tasks.engines.base import Engine, Request, Response, Sampling
from tasks.policy.job_policy import job_policy
from tasks.rewards.base import Answer, Verdict
from tasks.rewards.opened import opened
from tasks.rewards.problems import groups_of
from tasks.rollout.answered import Answered
from tasks.rollout.episodes import Episodes
from tasks.rollout.prompts import job_prompts
from tasks.rollout.recorded import Recorded


@dataclass(frozen=True)
class Sampled:
    """Judged answers, and what making them took."""

    answers: pa.Table
    """``tables.ROLLOUTS``, sorted by (group, sample); a group is a problem, in the order of the problems."""
    measured: dict[str, float]
    """``sampled_tokens``, ``tokens_per_second``, ``sampling_seconds``, and ``judging_seconds``: the wait for
    verdicts after the last token. ``reused_tokens`` of them were sampled for another artefact."""


def sample(
    job: Job,
    stage: str,
    problems: pa.Table,
    samples: int,
    temperature: float,
    top: int = 0,
    entropy: bool = False,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens: int | None = None,
) -> Sampled:
    """``samples`` answers to each row of ``problems`` (``tables.ASKED``), by the policy or the base model,
    with the ``top`` likeliest tokens of each position, and with ``entropy`` the policy's.

    ``top_p`` and ``top_k`` are as in ``engines.base.Sampling``; ``max_tokens`` None: the rollout's. Each
    answer's seed is of (run seed, stage, round, problem, sample). Temperature 0 is greedy. Raises
    ``StageFailure`` where engine or judge fail.
    """
    params, current = job.params, job.inputs.get("policy")
    answers = job.answers if params.task.environment is None else None
    known = answers and Recorded(answers, functools.partial(selection.kept, job))
    engine = known or selection.kept(job)
    trainer = job_policy(job)
    given, workers = job.inputs["problems"], params.task.reward_workers
    rows = problems.select([name for name in problems.column_names if name != "demonstrations"]).to_pylist()
    longest = max_tokens or params.rollout.max_response_tokens
    groups = groups_of(rows, params.task, longest, job.round)
    judge = job.context.keep(
        ("judge", params.task.reward, workers, given.digest),
        lambda: opened(params.task, job, groups),
    )
    judged_by = [judge.begin(group, samples) for group in groups]
    count = len(rows) * samples

    def tell(done: int, tokens: int) -> None:
        speed = tokens / (time.perf_counter() - began)
        job.context.tell("sampling", done, count, {"tokens_per_second": speed})

    def submit(index: int, answer: Answer | None) -> None:
        judged_by[index // samples].add(index % samples, answer)

    engine.load(current.path if current else None)
    began = time.perf_counter()
    ends = job_prompts(job).reader.ends
    sampling = Sampling(temperature, longest, trainer.stop_ids, top, entropy, top_p, top_k, ends)
    if params.task.environment is None:
        answered = _single(job, stage, rows, samples, sampling, engine, tell, submit)
    else:
        answered = Episodes(job, stage, rows, samples, sampling).run(selection.kept(job), tell, submit)
    sampled = time.perf_counter()
    judged = [verdict for arriving in judged_by for verdict in arriving.verdicts()]
    verdicts = [a.verdict or v for a, v in zip(answered, judged, strict=True)]
    judge.keep()
    tokens = sum(len(each.response.token_ids) for each in answered)
    measured = {
        "sampled_tokens": float(tokens),
        "sampling_seconds": sampled - began,
        "judging_seconds": time.perf_counter() - sampled,
        **({"reused_tokens": float(known.reused)} if known else {}),
    }
    measured["tokens_per_second"] = speed(measured)
    return Sampled(_table(job, rows, samples, answered, verdicts, sampling), measured)


def speed(measured: Mapping[str, float]) -> float:
    """Tokens that were sampled now, a second."""
    return (measured["sampled_tokens"] - measured.get("reused_tokens", 0.0)) / measured["sampling_seconds"]


def _single(
    job: Job,
    stage: str,
    rows: Sequence[Mapping[str, Any]],
    samples: int,
    sampling: Sampling,
    engine: Engine | Recorded,
    tell: Callable[[int, int], None],
    submit: Callable[[int, Answer | None], None],
) -> list[Answered]:
    """Answers of one turn."""
    prompts = job_prompts(job)
    reader, given_ids = prompts.reader, prompts.encode(rows)
    asked = [
        Request((*prompt, *_hint(row)), seed(job.params.seed, stage, job.round, row["problem_id"], index))
        for row, prompt in zip(rows, given_ids, strict=True)
        for index in range(samples)
    ]
    thinks = [reader.opens(ids) for ids in given_ids]
    heard: dict[int, Response] = {}
    thinking: dict[int, int | None] = {}

    def finished(index: int, response: Response) -> None:
        group, hint = index // samples, _hint(rows[index // samples])
        heard[index] = reader.cut(response)
        words = (*hint, *heard[index].token_ids)
        said = reader.read(words, thinks[group])
        thinking[index] = None if said.thinking_tokens is None else max(0, said.thinking_tokens - len(hint))
        submit(index, Answer(said.answer, heard[index].token_ids, said.whole))

    engine.generate(asked, sampling, tell, finished)
    return [
        Answered(request.prompt_ids, request.seed, heard[index], thinking[index])
        for index, request in enumerate(asked)
    ]


def _hint(problem: Mapping[str, Any]) -> list[int]:
    """The beginning of the answers to a problem: the judge reads it in their text, not among their tokens."""
    return problem.get("hint") or []


def _table(
    job: Job,
    rows: Sequence[Mapping[str, Any]],
    samples: int,
    answered: Sequence[Answered],
    verdicts: Sequence[Verdict],
    sampling: Sampling,
) -> pa.Table:
    sampler = job.inputs.get("policy") or job.inputs["model"]
    made = [
        {
            **each.columns(sampling.top, sampling.entropy),
            "problem_id": rows[index // samples]["problem_id"],
            "group": index // samples,
            "sample": index % samples,
            "hint_tokens": len(_hint(rows[index // samples])) or None,
            "reward": verdict.reward,
            "reward_error": verdict.error,
            "policy": sampler.digest,
            "round": job.round,
            "total": verdict.total,
            "rewards": verdict.parts,
            "notes": verdict.notes and json.dumps(verdict.notes),
        }
        for index, (each, verdict) in enumerate(zip(answered, verdicts, strict=True))
    ]
    columns = {name: [row.get(name) for row in made] for name in ROLLOUTS.names}
    return pa.table(columns, schema=ROLLOUTS)


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of all groups, numbered through."""
    shifted, count = [], 0
    for table in tables:
        field = table.schema.field("group")
        group = pa.array(table["group"].to_numpy() + count, field.type)
        shifted.append(table.set_column(table.column_names.index("group"), field, group))
        count += len(table["group"].unique())
    return pa.concat_tables(shifted)
