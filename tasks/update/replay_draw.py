"""Replay in an update: what the method draws from the buffer, and the anchor of its ratios."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from algorithms.contract import Hooks
from algorithms.drawing import Drawn, Fresh
from algorithms.replay_buffer import ReplayBuffer
from params.base import Config
from tasks.artefacts.tables import REPLAY, read_table
from tasks.core import seeds
from tasks.core.segments import responses_of
from tasks.core.stage import Job
from tasks.policy.policy import Policy
from tasks.replay.replay import opened
from tasks.rollout.demonstrations import as_answers, refuse_too_long, row
from tasks.update.responses import Responses

SNAPSHOTS = ("pool", "base_pool", "replay", "replay_before")
"""Inputs of an update that hold replayed answers: of an earlier run, of the base model, of this round, and of
the round before."""


def draw(job: Job, method: tuple[Hooks, Config], policy: Policy) -> Drawn | None:
    """What ``method`` draws from the one snapshot among the inputs; None for nothing."""
    part, config = method
    fresh, buffer = _fresh(job), _buffer(job, part, policy)
    if not len(buffer) and fresh.hints is None:
        return None
    assert part.draw is not None
    seed = seeds.seed(job.params.seed, "update", job.round, "replay")
    generator = torch.Generator().manual_seed(seed)

    def entropy(rows: pa.Table) -> Tensor:
        prompts, responses = rows["prompt_ids"].to_pylist(), responses_of(rows)
        scores = policy.score(prompts, responses, job.params.rollout.temperature, entropy=True)
        assert scores.entropy is not None
        return torch.stack([part.mean() for part in scores.split(scores.entropy)])

    found = part.draw(fresh, buffer, config, generator, entropy)
    return found if found.rows.num_rows else None


def anchored(given: Responses, policy: Policy, temperature: float) -> Responses:
    """The same responses, the stored log-probabilities of the replayed ones replaced by the policy's.

    Only of those with an advantage: no other has a ratio.
    """
    stale = (~given.fresh & (given.advantage != 0)).nonzero().squeeze(1).tolist()
    words = torch.cat([given.top[i][0] for i in stale]) if given.top and stale else None
    prompts, responses = [given.prompts[i] for i in stale], [given.responses[i] for i in stale]
    scores = policy.score(prompts, responses, temperature, others=words)
    logp, top = list(given.engine_logp), given.top and list(given.top)
    for place, own in zip(stale, scores.split(scores.logp), strict=True):
        logp[place] = own
    if top and scores.others is not None:
        for place, own in zip(stale, scores.split(scores.others), strict=True):
            top[place] = (top[place][0], own)
    return dataclasses.replace(given, engine_logp=logp, top=top)


def _buffer(job: Job, part: Hooks, policy: Policy) -> ReplayBuffer:
    """The one snapshot among the inputs, or the demonstrations of the round's problems. Raises ``BadInput``
    where those of no training problem are short enough."""
    if not part.DEMONSTRATIONS:
        return opened(next((job.inputs[name] for name in SNAPSHOTS if name in job.inputs), None))
    asked = read_table(job.inputs["rollout"].file("rollouts.parquet"), ["problem_id", "prompt_ids"])
    prompts = dict(zip(asked["problem_id"].to_pylist(), asked["prompt_ids"].to_pylist(), strict=True))
    problems = read_table(job.inputs["problems"].file("train.parquet"))
    longest = job.params.rollout.max_response_tokens
    found = as_answers(problems, prompts, policy.tokenizer, longest, job.round)
    if not len(found):  # by chance of the round, or for good
        refuse_too_long(problems, policy.tokenizer, longest)
    return ReplayBuffer(table=found)


def _hints(table: pa.Table, round: int) -> pa.Table | None:
    """Of each group that had one, its hint as an answer; None where none had."""
    found: dict[int, dict[str, Any]] = {}
    hinted = table.filter(table["hint_tokens"].is_valid())
    for each in hinted.select(["problem_id", "group", "prompt_ids", "hint_tokens"]).to_pylist():
        words, count = each["prompt_ids"], each["hint_tokens"]
        made = row(each["problem_id"], each["group"], 0, words[:-count], words[-count:], round)
        found.setdefault(each["group"], made)
    return pa.Table.from_pylist(list(found.values()), schema=REPLAY) if found else None


def _fresh(job: Job) -> Fresh:
    table = read_table(job.inputs["rollout"].file("rollouts.parquet"))
    sampled = Counter(table["group"].to_pylist())
    table = table.filter(table["reward"].is_valid())
    group = table["group"].to_pylist()
    whole = job.params.rollout.samples_per_problem
    return Fresh(
        problem=table["problem_id"].to_pylist(),
        group=torch.tensor(group, dtype=torch.int64),
        reward=torch.tensor(table["reward"].to_pylist(), dtype=torch.float32),
        missing=torch.tensor([whole - sampled[g] for g in group], dtype=torch.int64),
        hints=_hints(table, job.round),
    )
