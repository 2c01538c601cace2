"""The environment of a task in a run: its processes, its tools, and how its turns are written in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from params.base import BadInput
from tasks.core.stage import Job
from tasks.environments.calls import described
from tasks.environments.pool import Pool
from tasks.policy.chat import Chat
from tasks.policy.job_policy import job_policy
from tasks.policy.turns import Turns


@dataclass
class Surroundings:
    """What episodes stand in."""

    pool: Pool
    turns: Turns
    tools: Sequence[dict[str, Any]]
    """Those that the chat template is shown."""
    told: str | None
    """What the system message says of tools, where they are called by fenced blocks."""
    episodes: int = 0
    """How many began; each has its number."""

    def close(self) -> None:
        """End its processes."""
        self.pool.close()


def job_surroundings(job: Job) -> Surroundings:
    """Those of this job's task, opened once a run. Raises ``BadInput`` for an environment that cannot be
    opened, and for a chat template that does not go on from what it wrote."""
    task, policy = job.params.task, job_policy(job)
    choice, given = task.environment, task.episode
    assert choice is not None
    key = ("surroundings", job.inputs["model"].digest, task.model_dump_json())

    def make() -> Surroundings:
        bare = Chat(policy.tokenizer, task.prompt)
        if given.calls == "template" and not bare.reads_tools:
            raise BadInput(f"task.episode.calls: template, but {bare.named} shows no tools; expected fenced")
        fenced = given.calls == "fenced" or (given.calls == "auto" and not bare.reads_tools)
        pool = Pool(choice, given, fenced)
        try:
            shown = [] if fenced else pool.tools
            chat = Chat(policy.tokenizer, task.prompt, shown)
            turns = Turns(chat, policy.stop_ids, bool(shown), given.keep_thinking)
        except BaseException:
            pool.close()
            raise
        told = described(pool.tools) if fenced and pool.tools and given.describe_tools else None
        return Surroundings(pool, turns, shown, told)

    return job.context.keep(key, make)
