"""Answers that the student samples while it is distilled, to the round's own problems; nobody judges them.
Ours."""

from __future__ import annotations

import torch

from params.base import BadInput
from tasks.artefacts.tables import read_table
from tasks.core.seeds import seed
from tasks.core.segments import Ids
from tasks.core.stage import Job
from tasks.engines import selection
from tasks.engines.base import Request, Sampling
from tasks.erpd.sealed import sealed
from tasks.erpd.training import Material
from tasks.policy.policy import Policy


def sampled(job: Job, policy: Policy, attempt: int) -> Material:
    """As many answers a problem as the rollouts have, from the weights that ``policy`` holds now; not scored
    yet."""
    if job.params.task.environment:
        raise BadInput("distil.student.answers: fresh; expected static with task.environment")
    rows = read_table(job.inputs["rollout"].file("rollouts.parquet"))
    columns = [rows[name].to_pylist() for name in ("prompt_ids", "problem_id", "sample")]
    engine = selection.kept(job)
    asked = [
        Request(tuple(prompt), seed(job.params.seed, "distil", job.round, problem, sample, attempt))
        for prompt, problem, sample in zip(*columns, strict=True)
    ]
    limit = job.params.rollout.max_response_tokens

    def tell(done: int, tokens: int) -> None:
        job.context.tell("sampling", done, len(asked), {})

    options = Sampling(job.params.rollout.temperature, limit, policy.stop_ids)
    with sealed(job, policy.save) as student:
        engine.load(student.path)
        sampled = engine.generate(asked, options, tell)
    job.context.learning()  # goes on
    responses: list[Ids] = [list(response.token_ids) for response in sampled]
    group = torch.tensor(rows["group"].to_pylist(), dtype=torch.int64)
    return Material(columns[0], responses, group, torch.full((len(asked),), float("nan")), [], [])
