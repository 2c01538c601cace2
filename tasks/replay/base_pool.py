"""The stage ``base_pool``: the base model's answers that a method keeps from before the first round."""

from __future__ import annotations

import time

from algorithms import contract
from algorithms.replay_buffer import ReplayBuffer
from params.schema import Replay
from tasks.artefacts.tables import REPLAY
from tasks.core.stage import Job
from tasks.replay.replay import rule_of_method, write_pool
from tasks.rollout.prompts import askable
from tasks.rollout.sampling import sample


def base_pool(job: Job) -> dict[str, float]:
    """``model`` and ``problems`` into a snapshot as the stage ``replay`` makes, at the rollout temperature.

    ``method.replay`` says by ``base_answers`` how often each training problem is answered, and by ``admit``
    what stays.
    """
    began = time.perf_counter()
    choice = job.params.method.replay
    assert choice is not None
    part = contract.find(choice.name, "draw", "method.replay")
    assert part.base_answers is not None
    count = part.base_answers(choice.resolve(part.Config, "method.replay"))
    rollout = job.params.rollout
    sampled = sample(job, "base_pool", askable(job).train, count, rollout.temperature, rollout.top_logprobs)
    buffer = ReplayBuffer(Replay(admit="method"), REPLAY.empty_table())
    fates = buffer.admit(sampled.answers, job.round, choose=rule_of_method(job))
    write_pool(job, buffer, buffer.to_table(), fates)
    return {**sampled.measured, "seconds": time.perf_counter() - began}
