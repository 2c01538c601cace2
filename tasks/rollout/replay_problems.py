"""Problems that return: some replay methods choose part of a round's problems from the buffer."""

from __future__ import annotations

import torch

from algorithms import contract
from algorithms.drawing import ReplayedProblems
from tasks.artefacts.tables import read_table
from tasks.core import seeds
from tasks.core.stage import Job
from tasks.rollout import dynamic_sampling


def split(job: Job, problems: list[str], chosen: list[int]) -> tuple[list[int], list[int]]:
    """Of a round's ``chosen`` positions in ``problems``: those to ask as usual, and those that the buffer
    puts in place of the others, to be asked once less.

    Without a snapshot ``replay`` among the inputs, all as usual. A retired problem's place goes to another;
    where all are retired, they are asked all the same.
    """
    if "replay" not in job.inputs:
        return chosen, []
    said = _chosen(job, len(chosen))
    place = {problem: position for position, problem in enumerate(problems)}
    back = [place[problem] for problem in said.replayed]
    count = len(problems)
    more = dynamic_sampling.further(job.params.seed, job.round, 0, count, chosen, count)
    usual = [p for p in (*chosen, *more) if problems[p] not in said.retired and p not in set(back)]
    if not usual and not back:
        return chosen, []
    return usual[: len(chosen) - len(back)], back


def _chosen(job: Job, count: int) -> ReplayedProblems:
    choice, snapshot = job.params.method.replay, job.inputs["replay"]
    assert choice is not None
    part = contract.find(choice.name, "draw", "method.replay")
    config = choice.resolve(part.Config, "method.replay")
    assert part.problems is not None
    seed = seeds.seed(job.params.seed, "rollout", job.round, "replay")
    rows, results = (read_table(snapshot.file(name)) for name in ("buffer.parquet", "results.parquet"))
    return part.problems(rows, results, count, config, torch.Generator().manual_seed(seed))
