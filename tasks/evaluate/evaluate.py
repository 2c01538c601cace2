"""The stage ``evaluate``: a policy's answers to the held-out problems, sampled and greedy."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from algorithms.divergence import kl_k3
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import write_table
from tasks.core.stage import Job
from tasks.evaluate.scores import ANSWERS, scores
from tasks.policy.job_policy import job_policy
from tasks.rollout.prompts import askable
from tasks.rollout.sampling import sample


def evaluate(job: Job) -> dict[str, float]:
    """``model``, ``problems`` and a ``policy``, if any, into ``scores.json`` and ``answers.parquet``.

    Without a policy the base model is measured, whose KL to the base is exactly 0. ``answers.parquet`` holds
    ``evaluate.samples_per_problem`` answers per problem, then one greedy answer each.
    """
    began = time.perf_counter()
    problems = askable(job)
    held_out = problems.held_out
    temperature = job.params.rollout.temperature
    sampled = sample(job, "evaluate", held_out, job.params.evaluate.samples_per_problem, temperature)
    greedy = sample(job, "evaluate", held_out, 1, 0.0)
    scoring = time.perf_counter()
    tokens = token_means(job, sampled.answers)
    scored = time.perf_counter()
    answers = pa.concat_tables(
        [_readable(job, held_out, sampled.answers, False), _readable(job, held_out, greedy.answers, True)]
    )
    write_table(job.out / "answers.parquet", answers)
    found = scores(answers, tokens, job.params, job.round)
    write_json(job.out / "scores.json", {**found, "long_prompts": problems.left_out})
    return {
        **sampled.measured,
        "greedy_seconds": greedy.measured["sampling_seconds"] + greedy.measured["judging_seconds"],
        "scoring_seconds": scored - scoring,
        "seconds": time.perf_counter() - began,
    }


def token_means(job: Job, answers: pa.Table) -> dict[str, Any]:
    """Means over the tokens of the answers to ``evaluate.scored_problems``, by the trainer's forward pass at
    the rollout temperature: full-vocabulary entropy, the three largest probabilities, and KL to the base (k3,
    and k1, the mean log-ratio) in nats."""
    answers = _of_some_problems(answers, job.params.evaluate.scored_problems)
    current = job.inputs.get("policy")
    trainer = job_policy(job)
    trainer.restore(current.path if current else None)
    prompts = answers["prompt_ids"].to_pylist()
    responses = answers["response_ids"].to_pylist()
    temperature = job.params.rollout.temperature
    passes = 1 if current is None else 2
    job.context.tell("scoring", 0, passes, {})
    own = trainer.score(prompts, responses, temperature, entropy=True, ranks=3)
    job.context.tell("scoring", 1, passes, {})
    divergence = log_ratio = 0.0
    if current is not None:
        base = trainer.score(prompts, responses, temperature, reference=True)
        divergence = _mean(kl_k3(own.logp.double(), base.logp.double()))
        log_ratio = _mean(own.logp.double() - base.logp.double())
        job.context.tell("scoring", 2, passes, {})
    assert own.entropy is not None
    assert own.ranks is not None
    return {
        "tokens": len(own.logp),
        "entropy": _mean(own.entropy),
        "rank_probabilities": own.ranks.double().mean(0).tolist(),
        "kl_to_base": divergence,
        "kl_to_base_k1": log_ratio,
    }


def _of_some_problems(answers: pa.Table, count: int | None) -> pa.Table:
    """The answers to ``count`` of the problems, evenly spread over all."""
    groups = pc.unique(answers["group"]).to_numpy()
    if count is None or count >= len(groups):
        return answers
    chosen = groups[np.arange(count) * len(groups) // count]
    return answers.filter(pc.is_in(answers["group"], pa.array(chosen, answers["group"].type)))


def _readable(job: Job, held_out: pa.Table, answers: pa.Table, greedy: bool) -> pa.Table:
    """The answers with what a reader needs: question, gold answer, level, text."""
    tokenizer = job_policy(job).tokenizer
    problems = held_out.select(["question", "answer", "level"]).take(answers["group"])
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers["response_ids"].to_pylist()]
    columns = {
        **dict(zip(answers.column_names, answers.columns, strict=True)),
        **dict(zip(problems.column_names, problems.columns, strict=True)),
        "response": texts,
        "greedy": pa.repeat(greedy, len(answers)),
    }
    return pa.table(columns, schema=ANSWERS)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
