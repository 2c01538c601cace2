"""The stage ``evaluate``: a policy's answers to the held-out problems, sampled and greedy."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from algorithms.divergence import kl_k3
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import table_writer
from tasks.core.segments import Ids, responses_of
from tasks.core.stage import Job
from tasks.evaluate.scores import ANSWERS, scores, tally
from tasks.policy.job_policy import job_policy
from tasks.rollout.parts import sample_part
from tasks.rollout.prompts import askable
from tasks.rollout.sampling import speed
from tasks.rollout.transcripts import transcript

PART = 1 << 22
"""Tokens that the answers in memory may have, unless those to one problem have more."""
PART_ANSWERS = 4096
"""Answers after which an evaluation that is interrupted need not sample those before them again."""
OVERHEAD = 64
"""What an answer takes beside its tokens, counted in tokens."""


def evaluate(job: Job) -> dict[str, float]:
    """``model``, ``problems`` and a ``policy``, if any, into ``scores.json`` and ``answers.parquet``.

    Without a policy the base model is measured, whose KL to the base is exactly 0. ``answers.parquet`` holds
    ``evaluate.samples_per_problem`` answers per problem, then one greedy answer each. The problems are
    answered, scored and written a part at a time.
    """
    began = time.perf_counter()
    problems, given = askable(job), job.params.evaluate
    held_out, longest = problems.held_out, given.max_response_tokens
    temperature = given.temperature or job.params.rollout.temperature
    greedily = (0.0, 0, False, 1.0, 0, longest)
    measured: Counter[str] = Counter()
    tallies, tokens = [], TokenMeans(job, len(held_out))
    with table_writer(job.out / "answers.parquet", ANSWERS) as write:

        def keep(answers: pa.Table, of: pa.Table, greedy: bool) -> None:
            readable = _readable(job, of, answers, greedy)
            tallies.append(tally(readable))
            write(readable)

        for start, part in parts(job, held_out):
            options = (temperature, 0, False, given.top_p, given.top_k, longest)
            sampled = sample_part(job, "evaluate", part, given.samples_per_problem, *options)
            measured.update(sampled.measured)
            tokens.add(sampled.answers, start)
            keep(_counted_from(sampled.answers, start), held_out, greedy=False)
        greedy = sample_part(job, "evaluate", held_out, 1, *greedily) if given.greedy else None
        if greedy:
            keep(greedy.answers, held_out, greedy=True)
    found = scores(pa.concat_tables(tallies), tokens.means(), job.params, job.round)
    write_json(job.out / "scores.json", {**found, "long_prompts": problems.left_out})
    return {
        **measured,
        "tokens_per_second": speed(measured),
        "greedy_seconds": sum(greedy.measured[f"{work}_seconds"] for work in ("sampling", "judging"))
        if greedy
        else 0.0,
        "scoring_seconds": tokens.seconds,
        "seconds": time.perf_counter() - began,
    }


def parts(job: Job, problems: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """The problems in parts whose answers fit into ``PART``, each with the place of its first."""
    given = job.params.evaluate
    longest = given.max_response_tokens or job.params.rollout.max_response_tokens
    most = min(PART // (longest + OVERHEAD), PART_ANSWERS)
    count = max(1, most // given.samples_per_problem)
    return ((start, problems.slice(start, count)) for start in range(0, len(problems), count))


class TokenMeans:
    """Means over the tokens of the answers to ``evaluate.scored_problems``, by the trainer's forward pass at
    the rollout temperature: full-vocabulary entropy, the three largest probabilities, and KL to the base (k3,
    and k1, the mean log-ratio) in nats.

    Where ``evaluate.temperature`` and the like differ from the rollout's, they are means over other tokens
    than the policy's own, and the last two are no unbiased estimates.
    """

    def __init__(self, job: Job, problems: int) -> None:
        count = job.params.evaluate.scored_problems
        every = count is None or count >= problems
        self._chosen = (
            np.arange(problems) if every else np.arange(count or 0) * problems // max(count or 0, 1)
        )
        self._job = job
        self._tokens, self._sums = 0, torch.zeros(6, dtype=torch.float64)
        self.seconds = 0.0

    def add(self, answers: pa.Table, start: int) -> None:
        """Take in the answers to a part of the problems, whose first is at ``start``."""
        began = time.perf_counter()
        groups = pa.array(self._chosen - start, answers["group"].type)
        answers = answers.filter(pc.is_in(answers["group"], groups))
        if len(answers):
            self._score(answers["prompt_ids"].to_pylist(), responses_of(answers))
        self.seconds += time.perf_counter() - began

    def means(self) -> dict[str, Any]:
        """As they stand in ``scores.json``; null where no answers were scored."""
        if not self._tokens:
            names = ("entropy", "kl_to_base", "kl_to_base_k1")
            return {"tokens": 0, "rank_probabilities": [], **dict.fromkeys(names)}
        entropy, kl, log_ratio, *ranks = (self._sums / self._tokens).tolist()
        return {
            "tokens": self._tokens,
            "entropy": entropy,
            "rank_probabilities": ranks,
            "kl_to_base": kl,
            "kl_to_base_k1": log_ratio,
        }

    def _score(self, prompts: list[list[int]], responses: list[Ids]) -> None:
        job, current = self._job, self._job.inputs.get("policy")
        temperature = job.params.rollout.temperature
        trainer = job_policy(job)
        trainer.restore(current.path if current else None)
        passes = 1 if current is None else 2
        job.context.tell("scoring", 0, passes, {})
        own = trainer.score(prompts, responses, temperature, entropy=True, ranks=3)
        assert own.entropy is not None
        assert own.ranks is not None
        job.context.tell("scoring", 1, passes, {})
        self._tokens += len(own.logp)
        self._sums[0] += own.entropy.double().sum()
        self._sums[3:] += own.ranks.double().sum(0)
        if current is not None:
            base = trainer.score(prompts, responses, temperature, reference=True)
            self._sums[1] += kl_k3(own.logp.double(), base.logp.double()).sum()
            self._sums[2] += (own.logp.double() - base.logp.double()).sum()
            job.context.tell("scoring", 2, passes, {})


def _counted_from(answers: pa.Table, start: int) -> pa.Table:
    """The answers with their groups numbered from ``start``."""
    field = answers.schema.field("group")
    group = pa.array(answers["group"].to_numpy() + start, field.type)
    return answers.set_column(answers.column_names.index("group"), field, group)


def _readable(job: Job, held_out: pa.Table, answers: pa.Table, greedy: bool) -> pa.Table:
    """The answers with what a reader needs: question, gold answer, level, text."""
    tokenizer = job_policy(job).tokenizer
    problems = held_out.select(["question", "answer", "level"]).take(answers["group"])
    said = zip(answers["response_ids"].to_pylist(), answers["trace"].to_pylist(), strict=True)
    texts = [
        tokenizer.decode(ids, skip_special_tokens=True) if trace is None else transcript(trace)
        for ids, trace in said
    ]
    columns = {
        **dict(zip(answers.column_names, answers.columns, strict=True)),
        **dict(zip(problems.column_names, problems.columns, strict=True)),
        "response": texts,
        "greedy": pa.repeat(greedy, len(answers)),
    }
    return pa.table(columns, schema=ANSWERS)
