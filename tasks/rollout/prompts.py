"""Prompts of problems, and whether they leave room for an answer: asked of all before any is sampled."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from params.base import BadInput, nearest
from params.prompt import Prompt
from params.schema import Params
from tasks.artefacts.tables import read_table
from tasks.core.seeds import numpy_generator
from tasks.core.stage import Job
from tasks.policy.chat import Chat, Message, talk
from tasks.policy.job_policy import job_policy
from tasks.problems.contract import find_source
from tasks.rollout.surroundings import Surroundings, job_surroundings
from tasks.rollout.thinking import Reader

PIECE = 512
"""Prompts that are encoded at a time."""


class Prompts:
    """How the problems of a task are put to a model, and how what it says is read.

    ``train`` are the problems that examples are drawn from by the seed; ``shown`` writes a right answer as
    people read it. Raises ``BadInput``.
    """

    def __init__(
        self,
        prompt: Prompt,
        tokenizer: Any,
        train: pa.Table,
        seed: int,
        shown: Callable[[str], str] | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._prompt = prompt
        self._told = surroundings.told if surroundings else None
        self.chat = Chat(tokenizer, prompt, surroundings.tools if surroundings else ())
        self.reader = Reader(tokenizer, prompt, self.chat.stop)
        count = prompt.examples + 1 if prompt.examples else 0
        if train.num_rows < count:
            raise BadInput(
                f"task.prompt.examples: {prompt.examples}, of {train.num_rows} training problems; expected "
                f"at least {count} there"
            )
        order = numpy_generator(seed, "prompts", 0, "examples").permutation(train.num_rows)
        rows = train.take(order[:count]).to_pylist() if count else []
        self._examples = [
            (row["problem_id"], (row["question"], _solved(prompt, row, shown or str))) for row in rows
        ]

    def encode(self, problems: Sequence[Mapping[str, Any]]) -> list[tuple[int, ...]]:
        """The prompt of each problem (``tables.PROBLEMS``). Raises ``BadInput`` where the template fails."""
        return self.chat.ids([self.talk(problem) for problem in problems])

    def lengths(self, problems: pa.Table) -> np.ndarray:
        """The count of tokens of each prompt."""
        pieces = (problems.slice(start, PIECE) for start in range(0, problems.num_rows, PIECE))
        return np.array([len(ids) for piece in pieces for ids in self.encode(piece.to_pylist())], int)

    def close(self) -> None:
        """Nothing is held."""

    def talk(self, problem: Mapping[str, Any], further: str | None = None) -> list[Message]:
        """The messages of a problem, the last one the user's, with ``further`` words at its end."""
        said = self._talk(problem)
        if self._told:
            system = [self._told, *(each["content"] for each in said[:1] if each["role"] == "system")]
            said = [each for each in said if each["role"] != "system"]
            said = [{"role": "system", "content": "\n\n".join(system)}, *said]
        if further:
            said[-1] = {**said[-1], "content": f"{said[-1]['content']}\n\n{further}"}
        return said

    def _talk(self, problem: Mapping[str, Any]) -> list[Message]:
        others = [pair for name, pair in self._examples if name != problem["problem_id"]]
        shown, column = others[: self._prompt.examples], self._prompt.messages
        if column is None:
            return talk(self._prompt, problem["question"], shown)
        own = _messages(problem, column)
        start = sum(message["role"] == "system" for message in own[:1])
        examples = talk(self._prompt.model_copy(update={"system": None}), "", shown)[:-1]
        return [*own[:start], *examples, *own[start:]]


def _solved(prompt: Prompt, problem: Mapping[str, Any], shown: Callable[[str], str]) -> str:
    """What the assistant says to an example."""
    answer = shown(problem["answer"])
    solution = next(iter(problem.get("demonstrations") or []), answer)
    return prompt.example_answer.replace("{solution}", solution).replace("{answer}", answer)


def _messages(problem: Mapping[str, Any], column: str) -> list[Message]:
    """The messages that a column of the problem's source holds. Raises ``BadInput``."""
    row = json.loads(problem.get("columns") or "{}")
    where = f"task.prompt.messages: '{column}' of problem {problem['problem_id']}"
    if column not in row:
        raise BadInput(f"{where}: no such column{nearest(column, row)}")
    found = row[column]
    fit = isinstance(found, list) and all(
        isinstance(each, dict) and isinstance(each.get("role"), str) and isinstance(each.get("content"), str)
        for each in found
    )
    if not fit or not found or found[-1]["role"] != "user":
        raise BadInput(
            f"{where}: {found!r:.60}; expected messages with role and content, the last the user's"
        )
    return [{"role": each["role"], "content": each["content"]} for each in found]


def job_prompts(job: Job) -> Prompts:
    """Those of this job's task, made once a run. Raises ``BadInput``."""
    given, task = job.inputs["problems"], job.params.task
    key = ("prompts", given.digest, job.inputs["model"].digest, job.params.seed, task.model_dump_json())

    def make() -> Prompts:
        source = find_source(task.problems.name, "task.problems")
        train = read_table(given.file("train.parquet"))
        around = job_surroundings(job) if task.environment else None
        tokenizer = job_policy(job).tokenizer
        made = Prompts(task.prompt, tokenizer, train, job.params.seed, source.shown_answer, around)
        if made.chat.plain and task.prompt.chat_template is None:
            job.context.note(
                "the model has no chat template: prompts are 'Question: ... Answer:', and a response ends "
                f"before {', '.join(map(repr, made.chat.stop)) or 'nothing but its end token'} "
                "(task.prompt.chat_template, task.prompt.stop)"
            )
        return made

    return job.context.keep(key, make)


@dataclass(frozen=True)
class Askable:
    """The problems whose prompts fit."""

    train: pa.Table
    held_out: pa.Table
    left_out: int
    """Problems of both whose prompts do not, with ``task.on_long_prompt: drop``."""

    def close(self) -> None:
        """Nothing is held."""


def askable(job: Job) -> Askable:
    """The problems of this job's run, looked through once a run. Raises ``BadInput``."""
    given, params = job.inputs["problems"], job.params
    longest = (params.rollout.max_response_tokens, params.evaluate.max_response_tokens)
    key = (
        "askable",
        given.digest,
        job.inputs["model"].digest,
        params.task.model_dump_json(),
        params.model,
        longest,
    )

    def find() -> Askable:
        tables = (read_table(given.file("train.parquet")), read_table(given.file("held_out.parquet")))
        source = find_source(params.task.problems.name, "task.problems")
        config = params.task.problems.resolve(source.Config, "task.problems")
        place = partial(source.place, config) if source.place else _nowhere
        return fitting(tables, job_prompts(job), params, place)

    return job.context.keep(key, find)


def _nowhere(question: str) -> None:
    pass


def fitting(
    tables: tuple[pa.Table, pa.Table],
    prompts: Prompts,
    params: Params,
    place: Callable[[str], str | None],
) -> Askable:
    """The problems of the training and held-out tables whose prompts leave room for an answer: in a rollout,
    and in an evaluation.

    ``place(question)``: the file and line where it stands. Raises ``BadInput`` where others are not to be
    dropped, or too few are left.
    """
    sections = ("rollout", "evaluate" if params.evaluate.max_response_tokens else "rollout")
    rooms = [params.model.context - getattr(params, name).max_response_tokens for name in sections]
    limits = [
        f"at most {room} tokens, model.context - {name}.max_response_tokens"
        for name, room in zip(sections, rooms, strict=True)
    ]
    counts = [prompts.lengths(table) for table in tables]
    fits = [count <= room for count, room in zip(counts, rooms, strict=True)]
    long = sum(int((~fit).sum()) for fit in fits)
    if long and params.task.on_long_prompt == "error":
        worst = max((0, 1), key=lambda which: counts[which].max(initial=0) - rooms[which])
        row = tables[worst].slice(int(counts[worst].argmax()), 1).to_pylist()[0]
        where = place(row["question"]) or f"problem {row['problem_id']}"
        raise BadInput(
            f"{where}: its prompt has {counts[worst].max()} tokens, the most of {long} that are too long (of "
            f"{sum(map(len, counts))}); expected {limits[worst]} (task.on_long_prompt=drop leaves such "
            "problems out)"
        )
    train, held_out = (table.filter(pa.array(fit)) for table, fit in zip(tables, fits, strict=True))
    least = params.rollout.problems_per_round if tables[0].num_rows else 0  # a benchmark trains nobody
    if train.num_rows < least or not held_out.num_rows:
        said = " and ".join(dict.fromkeys(limits))
        raise BadInput(
            f"task.on_long_prompt: {train.num_rows} training and {held_out.num_rows} held-out problems have "
            f"{said}; expected at least rollout.problems_per_round and 1"
        )
    return Askable(train, held_out, long)
