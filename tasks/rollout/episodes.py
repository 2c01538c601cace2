"""Episodes: several turns of the model, each answered by its environment, with tokens that are never re-made.

A call of the engine takes the next turn of every episode of a wave that goes on; environments work while
others still sample, and while another wave does. What one episode becomes depends on its seeds and its
environment alone: on no other's, and on no order in which they come back. The seed of a turn is of (run,
stage, round, problem, sample, turn); the first turn's is that of an answer of one turn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    turns: list[Response] = field(default_factory=list)
    rewards: list[float | None] = field(default_factory=list)
    thinking: int | None = None
    last: str = ""
    """What it said in its last turn, without its thinking."""
    reason: str | None = None
    """Why it ended; None while it goes on."""
    verdict: Verdict | None = None
    rewarded: bool = False
    """Whether its environment was asked for a reward."""
    failure: Mapping[str, Any] | None = None
    """What came of a beginning that failed: one turn is sampled, and is the last."""


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
        self._around.episodes += len(rows) * samples
        self._early: dict[int, dict[str, Any]] = {}
        """Answers that came before they were asked for, by episode."""
        self._samples, self._count = samples, len(rows) * samples
        self._all = self._begun(rows, samples)

    def __len__(self) -> int:
        return len(self._all)

    def run(
        self, engine: Engine, tell: Callable[[int, int], None] = ignore, ended: Ended = ignore
    ) -> list[Answered]:
        """Every episode to its end, in the order of problems and samples; ``tell(episodes done, tokens)``."""
        waves = self._waves()
        turned: list[list[int]] = [[] for _ in waves]
        try:
            while any(waves):
                for place, wave in enumerate(waves):
                    self._hear(turned[place], ended)
                    waves[place] = going = [i for i in wave if not self._all[i].reason]
                    if going:
                        self._turn(engine, going, tell)
                    turned[place] = going
        finally:
            for index in range(len(self._all)):
                self._around.pool.end(self._first + index)
        return [self._answered(each) for each in self._all]

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
        said = self._answers(range(len(made)))
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

    def _waves(self) -> list[list[int]]:
        """The episodes that take their turns together, whole problems each."""
        problems = range(0, len(self._all), self._samples)
        count = max(1, min(self._limits.waves, len(problems)))
        firsts = [problems[place::count] for place in range(count)]
        return [[first + i for first in wave for i in range(self._samples)] for wave in firsts]

    def _answers(self, asked: Iterable[int]) -> dict[int, dict[str, Any]]:
        """What the environments of these episodes answer; others' answers are kept."""
        wanted = set(asked)
        while wanted - self._early.keys():
            name, said = self._around.pool.answer()
            if 0 <= name - self._first < self._count:  # not left over from a call that broke off
                self._early[name - self._first] = said
        return {index: self._early.pop(index) for index in sorted(wanted)}

    def _room(self, episode: _Episode) -> int:
        """How many more tokens it may have."""
        whole = min(self._sampling.max_tokens, self._job.params.model.context - len(episode.prompt))
        return whole - len(episode.ids)

    def _turn(self, engine: Engine, going: Sequence[int], tell: Callable[[int, int], None]) -> None:
        """One more turn of those that go on, whose environments begin to answer."""
        pool, done = self._around.pool, sum(each.reason is not None for each in self._all)
        before = sum(len(turn.token_ids) for each in self._all for turn in each.turns)

        def finished(place: int, response: Response) -> None:
            index = going[place]
            episode = self._all[index]
            said, raw = self._said(episode, response)
            if episode.failure is not None:
                _fail(episode, {**episode.failure, "failed": "environment"})
                return
            pool.step(self._first + index, said, raw)

        requests = [self._request(self._all[index]) for index in going]
        engine.generate(requests, self._sampling, lambda _, tokens: tell(done, before + tokens), finished)

    def _hear(self, turned: Sequence[int], ended: Ended) -> None:
        """Wait for the answers to a turn of these, and end those that do not go on."""
        asked = [i for i in turned if self._all[i].failure is None]
        for index, said in self._answers(asked).items():
            self._heard(self._all[index], said)
        self._finish([i for i in turned if self._all[i].reason and not self._all[i].rewarded])
        for index in turned:
            if self._all[index].reason:
                self._end(index, ended)

    def _request(self, episode: _Episode) -> Request:
        turn, job = len(episode.turns), self._job
        item = episode.item if not turn else (*episode.item, "turn", turn)
        most = min(self._room(episode), self._limits.turn_tokens or self._sampling.max_tokens)
        ids = (*episode.prompt, *episode.ids)
        return Request(ids, seed(job.params.seed, self._stage, job.round, *item), most)

    def _said(self, episode: _Episode, response: Response) -> tuple[str, str]:
        """Take a turn in; what it says, without its thinking, and the same with its special tokens."""
        reader, tokenizer = self._prompts.reader, self._prompts.chat.tokenizer
        response = reader.cut(response)
        opened = reader.opens([*episode.prompt, *episode.ids])
        ids = response.token_ids
        read = reader.read(ids, opened)
        if read.thinking_tokens is not None:
            episode.thinking = (episode.thinking or 0) + read.thinking_tokens
        episode.turns.append(response)
        episode.ids += ids
        episode.sampled += [True] * len(ids)
        episode.last = read.answer
        whole = read.answer if read.whole is None else read.whole
        episode.trace.append({"role": "assistant", "content": whole, "sampled": True})
        if response.finish_reason == "length":
            episode.reason = "length" if self._room(episode) < 1 else "turn_length"
        return read.answer, str(tokenizer.decode(ids[read.thinking_tokens or 0 :]))

    def _heard(self, episode: _Episode, said: Mapping[str, Any]) -> None:
        """Take in what the environment answers to a turn."""
        if "failed" in said:
            _fail(episode, said)
            return
        if "total" in said:
            episode.verdict, episode.rewarded = _verdict(said["total"]), True
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
            given = self._around.turns.between(messages, episode.ids[-1])
            if self._room(episode) <= len(given):
                episode.reason = "length"
            else:
                episode.ids += given
                episode.sampled += [False] * len(given)

    def _harmless(self, text: str) -> str:
        return self._around.turns.harmless(text)

    def _finish(self, ended: Sequence[int]) -> None:
        """Ask for the rewards of those that ended at a limit after their environment had answered."""
        for index in ended:
            self._around.pool.finish(self._first + index)
        for index, said in self._answers(ended).items():
            if "failed" in said:
                _fail(self._all[index], said)
            else:
                self._all[index].verdict = _verdict(said["total"])

    def _end(self, index: int, ended: Ended) -> None:
        self._around.pool.end(self._first + index)
        episode = self._all[index]
        whole = None
        if len(episode.turns) > 1:
            whole = "\n".join(f"{each['role']}: {each['content']}" for each in episode.trace)
        answer = Answer(episode.last, tuple(episode.ids), whole)
        ended(index, answer if episode.verdict is None else None)

    def _answered(self, episode: _Episode) -> Answered:
        turns, job = episode.turns, self._job
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
