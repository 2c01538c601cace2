"""Demonstrations in tokens: as answers that the policy could have given, and as hints before its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch

from algorithms import contract
from algorithms.correct import CORRECT
from algorithms.terms import Boundary
from params.base import BadInput
from tasks.artefacts.tables import REPLAY
from tasks.core import seeds
from tasks.core.stage import Job
from tasks.policy.boundaries import closed
from tasks.policy.job_policy import job_policy
from tasks.policy.load import response_ids
from tasks.rollout.prompts import job_prompts

COLUMN = "demonstrations"
SOURCE = "demonstration"
"""As the policy of a row, and its rule of admission."""
_LINE = Boundary(texts=("\n",))


def as_answers(
    problems: pa.Table, prompts: Mapping[str, Sequence[int]], tokenizer: Any, longest: int, round: int
) -> pa.Table:
    """The demonstrations of those ``problems`` (``tables.PROBLEMS``) that have a prompt, as rows of
    ``tables.REPLAY``: right, of this round, each token certain (log-probability 0). Those of more than
    ``longest`` tokens are left out."""
    found: list[dict[str, Any]] = []
    for problem in problems.select(["problem_id", COLUMN]).to_pylist():
        name = problem["problem_id"]
        for place, text in enumerate(problem[COLUMN] or [] if name in prompts else []):
            ids = response_ids(tokenizer, text)
            if len(ids) <= longest:
                found.append(row(name, len(found), place, prompts[name], ids, round))
    return pa.Table.from_pylist(found, schema=REPLAY)


def refuse_too_long(problems: pa.Table, tokenizer: Any, longest: int) -> None:
    """Raises ``BadInput`` where these problems, all that there are to learn from, have demonstrations and
    each has more than ``longest`` tokens."""
    texts = [text for shown in problems[COLUMN].to_pylist() for text in shown or []]
    lengths = [len(response_ids(tokenizer, text)) for text in texts]
    if lengths and min(lengths) > longest:
        raise BadInput(
            f"rollout.max_response_tokens: {longest}; the shortest of {len(lengths)} demonstrations has "
            f"{min(lengths)} tokens; expected at least that many"
        )


def row(
    problem: str, group: int, sample: int, prompt: Sequence[int], ids: Sequence[int], round: int
) -> dict[str, Any]:
    """A row of ``tables.REPLAY``: a right answer that no policy sampled."""
    return {
        "problem_id": problem,
        "group": group,
        "sample": sample,
        "prompt_ids": prompt,
        "response_ids": ids,
        "behaviour_logp": [0.0] * len(ids),
        "finish_reason": "stop",
        "reward": CORRECT,
        "policy": SOURCE,
        "round": round,
        "seed": 0,
        "group_accuracy": CORRECT,
        "admitted_as": SOURCE,
    }


def hinted(job: Job, problems: pa.Table) -> pa.Table:
    """The problems of a round, with a ``hint`` in tokens where the method asks for one, and without their
    demonstrations. A hint leaves room for an answer."""
    bare = problems.drop_columns([COLUMN])
    choice, params = job.params.method.replay, job.params
    part = contract.find(choice.name, "draw", "method.replay") if choice else None
    if choice is None or part is None or part.hint is None:
        return bare
    config, tokenizer = choice.resolve(part.Config, "method.replay"), job_policy(job).tokenizer
    prompts = job_prompts(job).encode(problems.to_pylist())
    room = params.model.context - params.rollout.max_response_tokens
    hints: list[list[int]] = []
    for problem, prompt in zip(problems.to_pylist(), prompts, strict=True):
        seed = seeds.seed(params.seed, "rollout", job.round, "hint", problem["problem_id"])
        generator, shown = torch.Generator().manual_seed(seed), problem[COLUMN]
        if not shown:
            hints.append([])
            continue
        text = shown[int(torch.randint(len(shown), (1,), generator=generator))]
        ids = response_ids(tokenizer, text)[:-1]
        count = part.hint(closed(tokenizer, _LINE, [ids])[0], job.round, config, generator)
        hints.append(ids[: min(count, room - len(prompt))])
    return bare.append_column("hint", pa.array(hints, pa.list_(pa.int32())))
