"""A judging process, ``python -m tasks.rewards.worker NAME OPTIONS PARENT [ROOT]``: answers in, verdicts out.

What it may do to the machine is bounded: memory by an address-space limit, files by a size limit of zero,
time by its parent, and by its own alarm should the parent be gone.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.core.json_worker import Parent
from tasks.rewards import contract
from tasks.rewards.base import Answer, Bounds, Group, Verdict, listen
from tasks.rewards.contract import Reward


def main(name: str, options: str, parent: int, root: str = "") -> None:
    """Judge one group of answers after the other until the input ends."""
    starter = Parent(parent)
    module = contract.find_reward(name, "task.reward")
    config: Any = module.Config(**json.loads(options))
    if module.enter:
        module.enter(Path(root) if root else None, config)
    starter.send({"ready": True})
    _silence()
    _bound(config)
    if module.confine:
        module.confine()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    listen(lambda: starter.send({"begun": True}))
    for message in starter:
        group, explain = _group(message["group"]), message["explain"]
        signal.setitimer(signal.ITIMER_REAL, config.timeout_seconds * len(group.answers) + 1.0)
        said, last = _judge(module, group, config, explain)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        starter.send({"verdicts": said, "last": last})


def _group(message: dict[str, Any]) -> Group:
    answers = tuple(Answer(text, tuple(tokens), whole) for text, tokens, whole in message["answers"])
    return Group(**{**message, "answers": answers})


def _judge(module: Reward, group: Group, config: Bounds, explain: bool) -> tuple[list[list[Any]], bool]:
    """Reward, error, notes and explanation of each answer, and whether this process should be replaced after
    them."""
    count = len(group.answers)
    try:
        verdicts = _verdicts(module, group, config)
        told = [
            module.explain(group.gold, answer.text, config) if explain and module.explain else None
            for answer in group.answers
        ]
        said = [[v.reward, v.error, v.notes, each] for v, each in zip(verdicts, told, strict=True)]
        json.dumps(said)  # what is no JSON is the judge's failure, too
        return said, False
    except MemoryError:
        return [[None, f"judge ran out of memory ({config.memory_mib} MiB)", None, None]] * count, True
    except (
        Exception
    ) as error:  # whatever a judge raises concerns these answers alone, and is reported with it
        failed = f"judge failed: {type(error).__name__}: {str(error)[:200]}"
        return [[None, failed, None, None]] * count, False


def _verdicts(module: Reward, group: Group, config: Bounds) -> Sequence[Verdict]:
    if module.judge_group:
        return module.judge_group(group, config)
    assert module.judge is not None
    return [module.judge(group.gold, answer.text, config) for answer in group.answers]


def _silence() -> None:
    """Keep what a judge prints out of the replies."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _bound(config: Bounds) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, config.memory_mib * 2**20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:5])
