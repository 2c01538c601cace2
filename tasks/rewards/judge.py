"""Judging in processes that can be killed: an answer that hangs, crashes or eats memory harms no other.

Each worker is a child process (``tasks.rewards.worker``); a pool of as many threads here feeds them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Protocol

from params.reward import RewardChoice, Rewards, combined, several
from tasks.core.errors import StageFailure
from tasks.core.json_process import JsonProcess, ProcessFailure, environment
from tasks.rewards.aggregate import aggregated, alone
from tasks.rewards.base import Answer, Bounds, Group, Verdict
from tasks.rewards.contract import Reward, chosen_reward

_START_SECONDS = 120.0
_TRIES = 3
_COMMAND = (sys.executable, "-P", "-m", "tasks.rewards.worker")


class JudgeFailure(StageFailure):
    """The judging process does not even start."""


class Kept(Protocol):
    """Verdicts by the content that they depend on."""

    def find(self, key: str) -> Verdict | None:
        """The one that was given before, if there is one."""

    def add(self, verdicts: Mapping[str, Verdict]) -> None:
        """Keep those that are no failures. From any thread."""

    def write(self) -> None:
        """Have everything on disk."""


@dataclass(frozen=True)
class _Part:
    """One reward of the judge's."""

    choice: RewardChoice
    module: Reward
    config: Bounds
    whole: bool
    """Whether it is given all answers to a problem at once."""


class Judge:
    """Judges answers in ``workers`` processes a reward, which start with the first answer and live until
    ``close``.

    ``root`` is the directory of the problems, where a judge that needs more than the right answer finds it.
    A process that dies under an answer is replaced and the answer judged again; the third death is its
    verdict. One that takes too long is killed: a reward of 0 where the judge had turned to what the answer
    itself does (``tasks.rewards.base.answer_begins``), else none. What a reward that is given a whole group
    does to itself concerns that reward of that group.
    """

    def __init__(
        self, rewards: Rewards, workers: int = 1, root: Path | None = None, kept: Kept | None = None
    ) -> None:
        """``kept``: verdicts of dear rewards that were given before."""
        self._parts = [_part(choice) for choice in several(rewards)]
        self._combined, self._kept = combined(rewards), kept
        self._closed = False
        self._idle = [[_Worker(part, root) for part in self._parts] for _ in range(workers)]
        self._pool = ThreadPoolExecutor(workers, "judge")

    def judge(
        self,
        pairs: Sequence[tuple[str, str]],
        tell: Callable[[int], None] = lambda done: None,
        explain: bool = False,
    ) -> list[Verdict]:
        """A verdict for each (right answer, given answer), in their order; ``tell(done)`` after each."""
        groups = [Group(gold, (Answer(answer),)) for gold, answer in pairs]
        return [one for verdicts in self.judge_groups(groups, tell, explain) for one in verdicts]

    def judge_groups(
        self,
        groups: Sequence[Group],
        tell: Callable[[int], None] = lambda done: None,
        explain: bool = False,
    ) -> list[list[Verdict]]:
        """A verdict for each answer of each group; ``tell`` the count of answers after each group."""
        waiting = [self.begin(group, len(group.answers), explain) for group in groups]
        for arriving, group in zip(waiting, groups, strict=True):
            for place, answer in enumerate(group.answers):
                arriving.add(place, answer)
        found, done = [], 0
        for arriving in waiting:
            found.append(arriving.verdicts())
            done += len(found[-1])
            tell(done)
        return found

    def begin(self, group: Group, size: int, explain: bool = False) -> Arriving:
        """Begin to judge ``size`` answers to a problem, while they are sampled one by one."""
        return Arriving(self, group, size, explain)

    def close(self) -> None:
        """End the workers. Answers that nobody has judged yet are cancelled."""
        self._closed = True
        self._pool.shutdown(cancel_futures=True)
        for workers in self._idle:
            for worker in workers:
                worker.close()
        self.keep()

    def keep(self) -> None:
        """Put the verdicts that are worth keeping where the next run finds them."""
        if self._kept:
            self._kept.write()

    def start(self, group: Group, whole: bool, explain: bool) -> Future[dict[int, list[Verdict]]]:
        """Begin to judge a group by the rewards that are given whole groups, or by the others. A verdict for
        each answer, by the place of the reward."""
        if self._closed:
            raise RuntimeError("the judge is closed")
        chosen = [place for place, part in enumerate(self._parts) if part.whole is whole]
        return self._pool.submit(lambda: {place: self._asked(group, place, explain) for place in chosen})

    def has(self, whole: bool) -> bool:
        """Whether some reward is given whole groups, or some is not."""
        return any(part.whole is whole for part in self._parts)

    def joined(self, verdicts: Mapping[int, Verdict]) -> Verdict:
        """The verdict on one answer from those of every reward, by its place."""
        if not self._combined:
            return alone(verdicts[0])
        return aggregated([part.choice for part in self._parts], [verdicts[p] for p in sorted(verdicts)])

    def _asked(self, group: Group, place: int, explain: bool) -> list[Verdict]:
        """What one reward says of each answer; those whose verdict is kept are not asked for again."""
        part = self._parts[place]
        if self._kept is None or part.module.content_keys is None:
            return self._judged(group, place, explain)
        keys = part.module.content_keys(group, part.config)
        known = {key: old for key in keys if (old := self._kept.find(key))}
        missing = {key: index for index, key in reversed(list(enumerate(keys))) if key not in known}
        if missing:
            found = self._judged(group.only(*missing.values()), place, explain)
            fresh = dict(zip(missing, found, strict=True))
            self._kept.add(fresh)
            known |= fresh
        return [known[key] for key in keys]

    def _judged(self, group: Group, place: int, explain: bool) -> list[Verdict]:
        workers = self._idle.pop()
        try:
            return workers[place].judge(group, explain)
        finally:
            self._idle.append(workers)


class Arriving:
    """The answers to one problem, judged as they come: a reward that needs all of them waits for the last."""

    def __init__(self, judge: Judge, group: Group, size: int, explain: bool) -> None:
        self._judge, self._group, self._explain = judge, group, explain
        self._answers: list[Answer | None] = [None] * size
        self._missing = size
        self._each: dict[int, Future[dict[int, list[Verdict]]]] = {}
        self._all: Future[dict[int, list[Verdict]]] | None = None
        self._lock = Lock()

    def add(self, place: int, answer: Answer | None) -> None:
        """The answer at a place, from any thread; None for one that is not to be judged."""
        with self._lock:
            self._answers[place] = answer
            self._missing -= 1
            complete = not self._missing
        given = [each for each in self._answers if each is not None]
        if answer is not None and self._judge.has(whole=False):
            one = replace(self._group, answers=(answer,))
            self._each[place] = self._judge.start(one, whole=False, explain=self._explain)
        if given and complete and self._judge.has(whole=True):
            every = replace(self._group, answers=tuple(given))
            self._all = self._judge.start(every, whole=True, explain=self._explain)

    def verdicts(self) -> list[Verdict]:
        """A verdict for each answer, in their order, once all have come; one that says nothing for those that
        were not to be judged. May raise ``JudgeFailure``."""
        together = self._all.result() if self._all else {}
        found, judged = [], 0
        for place, answer in enumerate(self._answers):
            if answer is None:
                found.append(Verdict(None))
                continue
            each = self._each[place].result() if place in self._each else {}
            own = {part: verdicts[0] for part, verdicts in each.items()}
            own |= {part: verdicts[judged] for part, verdicts in together.items()}
            found.append(self._judge.joined(own))
            judged += 1
        return found


def _part(choice: RewardChoice) -> _Part:
    module, config = chosen_reward(choice, "task.reward")
    return _Part(choice, module, config, bool(module.whole_groups and module.whole_groups(config)))


class _Worker:
    """One judging process, replaced whenever it has died or had to be killed."""

    def __init__(self, part: _Part, root: Path | None) -> None:
        self._command = [*_COMMAND, part.choice.name, part.config.model_dump_json(), str(os.getpid())]
        self._command += [] if root is None else [str(root.resolve())]
        self._timeout = part.config.timeout_seconds
        self._process: JsonProcess | None = None

    def judge(self, group: Group, explain: bool) -> list[Verdict]:
        """A verdict for each answer; a worker that is silent for too long, or gone again and again, has
        failed."""
        answers = [(answer.text, answer.tokens, answer.whole) for answer in group.answers]
        message = {"group": {**vars(group), "answers": answers}, "explain": explain}
        ended, seconds, count = "", self._timeout * len(answers), len(answers)
        for _ in range(_TRIES):
            process = self._running()
            deadline = time.monotonic() + seconds
            begun = False
            try:
                process.send(message, seconds)
                reply = process.receive(deadline - time.monotonic())
                while "begun" in reply:
                    begun = True
                    reply = process.receive(deadline - time.monotonic())
            except ProcessFailure as failure:
                self.close()
                if failure.code is None:
                    return [Verdict(0.0 if begun else None, f"timed out after {seconds:g} s")] * count
                ended = failure.ended
                continue
            if reply["last"]:
                self.close()
            return [Verdict(reward, error, told, notes) for reward, error, notes, told in reply["verdicts"]]
        return [Verdict(None, f"judge died ({ended})")] * count

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.close(0.0)

    def _running(self) -> JsonProcess:
        """The process, ready. One that is killed from outside while it starts is started again."""
        if self._process is not None and self._process.alive:
            return self._process
        for _ in range(_TRIES):
            self.close()
            self._process = JsonProcess("judge", self._command, environment(OMP_NUM_THREADS="1"))
            try:
                self._process.receive(_START_SECONDS)
            except ProcessFailure as failure:
                self.close()
                if failure.code is None:
                    raise JudgeFailure(f"the judge does not start within {_START_SECONDS:g} s") from None
                reason = failure.last_words or "no reason given"
                if failure.code >= 0:
                    break
            else:
                return self._process
        raise JudgeFailure(f"the judge does not start: {reason}")
