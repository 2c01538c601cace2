"""The judge of a stage: with the verdicts that its workspace keeps, and tried before anything is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from params.base import BadInput
from params.reward import several
from params.task import Task
from tasks.core.stage import Job
from tasks.rewards.base import Answer, Group
from tasks.rewards.contract import find_reward
from tasks.rewards.judge import Judge
from tasks.rewards.kept import kept_verdicts


def opened(task: Task, job: Job, groups: Sequence[Group]) -> Judge:
    """The judge of ``task.reward``. Where a reward is dear, the right answer of the first group is judged by
    it; raises ``BadInput`` where it gives no verdict."""
    kept = kept_verdicts(task.reward, job)
    if kept and groups:
        trial = replace(groups[0], answers=(Answer(groups[0].gold),))
        for choice in several(task.reward):
            if find_reward(choice.name, "task.reward").content_keys:
                judge = Judge(choice.model_copy(update={"weight": 1.0}), 1, kept=kept)
                try:
                    ((verdict,),) = judge.judge_groups([trial])
                finally:
                    judge.close()
                if verdict.reward is None:
                    raise BadInput(f"task.reward: {verdict.error}")
    return Judge(task.reward, task.reward_workers, job.inputs["problems"].path, kept)
