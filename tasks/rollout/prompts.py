"""Prompts of problems, and whether they leave room for an answer: asked of all before any is sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from params.base import BadInput
from params.schema import Params
from tasks.artefacts.tables import read_table
from tasks.core.stage import Job
from tasks.policy.job_policy import job_policy
from tasks.policy.load import prompt_ids
from tasks.problems.contract import find_source

PIECE = 512
"""Prompts that are encoded at a time."""


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
    key = ("askable", given.digest, job.inputs["model"].digest, params.task, params.model, longest)

    def find() -> Askable:
        tables = (read_table(given.file("train.parquet")), read_table(given.file("held_out.parquet")))
        source = find_source(params.task.problems.name, "task.problems")
        config = params.task.problems.resolve(source.Config, "task.problems")
        place = partial(source.place, config) if source.place else _nowhere
        return fitting(tables, job_policy(job).tokenizer, params, place)

    return job.context.keep(key, find)


def _nowhere(question: str) -> None:
    pass


def fitting(
    tables: tuple[pa.Table, pa.Table],
    tokenizer: Any,
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
    counts = [lengths(tokenizer, params.task.instruction, table["question"].to_pylist()) for table in tables]
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
    if train.num_rows < params.rollout.problems_per_round or not held_out.num_rows:
        said = " and ".join(dict.fromkeys(limits))
        raise BadInput(
            f"task.on_long_prompt: {train.num_rows} training and {held_out.num_rows} held-out problems have "
            f"{said}; expected at least rollout.problems_per_round and 1"
        )
    return Askable(train, held_out, long)


def encode(tokenizer: Any, instruction: str, questions: Sequence[str]) -> list[tuple[int, ...]]:
    """Each question as a prompt's tokens. Raises ``BadInput`` where the chat template fails."""
    texts = [instruction.replace("{question}", question) for question in questions]
    return [tuple(ids) for ids in prompt_ids(tokenizer, texts)]


def lengths(tokenizer: Any, instruction: str, questions: Sequence[str]) -> np.ndarray:
    """The count of tokens of each prompt."""
    pieces = (questions[start : start + PIECE] for start in range(0, len(questions), PIECE))
    return np.array([len(ids) for piece in pieces for ids in encode(tokenizer, instruction, piece)], int)
