"""Episodes: several turns of the model, each answered by its environment, with tokens that are never re-made.

One call of the engine samples all of them: an episode's next turn joins those under way as soon as its
environment has answered. What one episode becomes depends on its seeds and its environment alone: on no
other's, and on no order in which they come back. The seed of a turn is of (run, stage, round, problem,
sample, turn); the first turn's is that of an answer of one turn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from params.base import BadInput
from tasks.core.seeds import seed
from tasks.core.stage import Job
from tasks.engines.base import Engine, Request, Response, Sampling, ignore
from tasks.environments.base import Problem
from tasks.policy.chat import Message
from tasks.rewards.base import Answer, Verdict
from tasks.rollout.answered import Answered
from tasks.rollout.prompts import job_prompts
from tasks.rollout.surroundings import job_surroundings

Ended = Callable[[int, Answer | None], None]
"""``ended(index, answer)``: an episode has come to its end; None where no judge gives its reward."""


@dataclass
class _Episode:
    """One on its way."""

    item: tuple[int | str, ...]
    """What its seeds are of."""
    prompt: Sequence[int]
    trace: list[Message]
    ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    """The requests of its turns, by their indices."""
    rewards: list[float | None] = field(default_factory=list)
    thinking: int | None = None
    turn: Sequence[int] = ()
    """The tokens of its last turn."""
    last: str = ""
    """What it said in its last turn, without its thinking."""
    reason: str | None = None
    """Why it ended; None while it goes on."""
    verdict: Verdict | None = None
    rewarded: bool = False
    """Whether its environment was asked for a reward."""
    failure: Mapping[str, Any] | None = None
    """How its environment failed before it was asked: the turn under way, or the first, is the last."""


class Episodes:
    """The episodes of some problems, ``samples`` of each."""

    def __init__(
        self,
        job: Job,
        stage: str,
        rows: Sequence[Mapping[str, Any]],
        samples: int,
        sampling: Sampling,
    ) -> None:
        self._job, self._stage = job, stage
        self._sampling, self._limits = sampling, job.params.task.episode
        self._prompts, self._around = job_prompts(job), job_surroundings(job)
        self._first = self._around.episodes
        self._count = len(rows) * samples
        self._around.episodes += self._count
        self._all = self._begun(rows, samples)
        self._asked: list[int] = []
        """Whose each request is."""
        self._due: set[int] = set()
        """The episodes whose environments are to answer."""
        self._over = 0
        """How many episodes have ended."""
        self._ended: Ended = ignore

    def __len__(self) -> int:
        return len(self._all)

    def run(
        self, engine: Engine, tell: Callable[[int, int], None] = ignore, ended: Ended = ignore
    ) -> list[Answered]:
        """Every episode to its end, in the order of problems and samples; ``tell(episodes done, tokens)``."""
        self._ended = ended
        try:
            made = engine.generate(
                [self._request(index) for index in range(len(self._all))],
                self._sampling,
                lambda _, tokens: tell(self._over, tokens),
                lambda place, response: self._spoke(self._asked[place], response),
                self._more,
            )
        finally:
            for index in range(len(self._all)):
                self._around.pool.end(self._first + index)
        turns = [self._prompts.reader.cut(response) for response in made]
        return [self._answered(each, [turns[place] for place in each.turns]) for each in self._all]

    def _begun(self, rows: Sequence[Mapping[str, Any]], samples: int) -> list[_Episode]:
        pool, job = self._around.pool, self._job
        made: list[_Episode] = []
        folder = job.inputs["problems"].path
        for row in rows:
            for sample in range(samples):
                item = (row["problem_id"], sample)
                chance = seed(job.params.seed, self._stage, job.round, *item, "environment")
                columns = json.loads(row.get("columns") or "{}")
                problem = Problem(row["question"], row["answer"], chance, columns, folder)
                pool.start(self._first + len(made), problem)
                made.append(_Episode(item, (), []))
        said: dict[int, dict[str, Any]] = {}
        while len(said) < len(made):
            said.update(filter(None, [self._heard(math.inf)]))
        talks = [self._prompts.talk(rows[i // samples], said[i].get("said")) for i in range(len(made))]
        encoded: dict[str, tuple[int, ...]] = {}
        for index, (each, talk) in enumerate(zip(made, talks, strict=True)):
            written = json.dumps(talk)
            if written not in encoded:
                (encoded[written],) = self._prompts.chat.ids([talk])
            each.prompt, each.trace = encoded[written], list(talk)
            each.failure = said[index] if "failed" in said[index] else None
            if self._room(each) < 1:
                raise BadInput(
                    f"task.environment: the prompt of {each.item[0]} has {len(each.prompt)} tokens with what "
                    f"its environment says; expected fewer than model.context, {job.params.model.context}"
                )
        return made

    def _heard(self, seconds: float) -> tuple[int, dict[str, Any]] | None:
        """The next answer of an environment, and of which episode; None where none comes in time."""
        while answer := self._around.pool.answer(seconds):
            if 0 <= answer[0] - self._first < self._count:  # not left over from a call that broke off
                return answer[0] - self._first, answer[1]
        return None

    def _room(self, episode: _Episode) -> int:
        """How many more tokens it may have."""
        whole = min(self._sampling.max_tokens, self._job.params.model.context - len(episode.prompt))
        return whole - len(episode.ids)

    def _request(self, index: int) -> Request:
        """For its next turn."""
        episode, job = self._all[index], self._job
        turn = len(episode.turns)
        before = episode.turns[-1] if turn else None
        item = episode.item if not turn else (*episode.item, "turn", turn)
        most = min(self._room(episode), self._limits.turn_tokens or self._sampling.max_tokens)
        ids = (*episode.prompt, *episode.ids)
        episode.turns.append(len(self._asked))
        self._asked.append(index)
        return Request(ids, seed(job.params.seed, self._stage, job.round, *item), most, before)

    def _spoke(self, index: int, response: Response) -> None:
        """A turn is whole: its environment hears of it."""
        episode = self._all[index]
        said, raw = self._said(episode, response)
        if episode.failure is None:
            self._around.pool.step(self._first + index, said, raw)
            self._due.add(index)
        else:
            _fail(episode, {**episode.failure, "failed": "environment"})
            self._end(index)

    def _more(self, seconds: float) -> list[Request] | None:
        """The turns that environments have answered for; see ``engines.base.More``."""
        found: list[Request] = []
        while self._due and (heard := self._heard(0.0 if found else seconds)):
            index, said = heard
            episode = self._all[index]
            if index not in self._due:  # its environment has died while it speaks
                episode.failure = said
                continue
            self._take(episode, said)
            if not episode.reason or episode.rewarded:
                self._due.remove(index)
            if not episode.reason:
                found.append(self._request(index))
            elif episode.rewarded:
                self._end(index)
            else:  # it ended at a limit after its environment had answered
                self._around.pool.finish(self._first + index)
        return None if self._over == len(self._all) else found

    def _said(self, episode: _Episode, response: Response) -> tuple[str, str]:
        """Take a turn in; what it says, without its thinking, and the same with its special tokens."""
        reader, tokenizer = self._prompts.reader, self._prompts.chat.tokenizer
        response = reader.cut(response)
        opened = reader.opens([*episode.prompt, *episode.ids])
        ids = response.token_ids
        read = reader.read(ids, opened)
        if read.thinking_tokens is not None:
            episode.thinking = (episode.thinking or 0) + read.thinking_tokens
        episode.turn = ids
        episode.ids += ids
        episode.sampled += [True] * len(ids)
        episode.last = read.answer
        whole = read.answer if read.whole is None else read.whole
        episode.trace.append({"role": "assistant", "content": whole, "sampled": True})
        if response.finish_reason == "length":
            episode.reason = "length" if self._room(episode) < 1 else "turn_length"
        return read.answer, str(tokenizer.decode(ids[read.thinking_tokens or 0 :]))

    def _take(self, episode: _Episode, said: Mapping[str, Any]) -> None:
        """Take in what the environment answers to a turn, or to be asked for a reward."""
        if "failed" in said:
            _fail(episode, said)
            return
        if "total" in said:
            episode.verdict, episode.rewarded = _verdict(said["total"]), True
            episode.last = episode.last if said["answer"] is None else said["answer"]
        if "messages" not in said:
            return
        episode.rewards.append(said["reward"])
        messages = [{**each, "content": self._harmless(each["content"])} for each in said["messages"]]
        episode.trace += messages
        if episode.reason:  # its turn was cut: there is no other
            return
        if said["done"]:
            episode.reason = "stop"
        elif len(episode.turns) >= self._limits.turns:
            episode.reason = "turns"
        else:
            given = self._around.turns.between(messages, episode.turn)
            if self._room(episode) <= len(given):
                episode.reason = "length"
            else:
                episode.ids += given
                episode.sampled += [False] * len(given)

    def _harmless(self, text: str) -> str:
        return self._around.turns.harmless(text)

    def _end(self, index: int) -> None:
        self._around.pool.end(self._first + index)
        self._over += 1
        episode = self._all[index]
        whole = None
        if len(episode.turns) > 1:
            whole = "\n".join(f"{each['role']}: {each['content']}" for each in episode.trace)
        answer = Answer(episode.last, tuple(episode.ids), whole)
        self._ended(index, answer if episode.verdict is None else None)

    def _answered(self, episode: _Episode, turns: Sequence[Response]) -> Answered:
        job = self._job
        joined = Response(
            token_ids=tuple(token for turn in turns for token in turn.token_ids),
            logp=tuple(value for turn in turns for value in turn.logp),
            finish_reason=str(episode.reason),
            top_ids=tuple(token for turn in turns for token in turn.top_ids),
            top_logp=tuple(value for turn in turns for value in turn.top_logp),
            entropy=tuple(value for turn in turns for value in turn.entropy),
        )
        return Answered(
            prompt_ids=episode.prompt,
            seed=seed(job.params.seed, self._stage, job.round, *episode.item),
            response=joined,
            thinking_tokens=episode.thinking,
            verdict=episode.verdict,
            ids=episode.ids,
            sampled=None if all(episode.sampled) else episode.sampled,
            turn_rewards=episode.rewards,
            trace=json.dumps(episode.trace),
        )


def _fail(episode: _Episode, said: Mapping[str, Any]) -> None:
    """One whose environment took too long has a reward of 0; one that failed has none."""
    episode.reason, episode.rewarded = str(said["failed"]), True
    episode.rewards += [None] * (len(episode.turns) - len(episode.rewards))
    reward = 0.0 if episode.reason == "time" else None
    episode.verdict = Verdict(reward, f"environment: {said['why']}")


def _verdict(total: float | None) -> Verdict | None:
    return None if total is None else Verdict(total)
