"""Environments for tests, in a file of a user's own, and rollouts of a tiny model in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from params.base import Choice
from params.engine import Engine
from params.episode import Episode
from params.schema import Params, Rollout
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import PROBLEMS, write_table
from tests.conftest import as_artefact
from tests.tasks.rollout_rows import parameters

FILE = '''
import os
import pathlib
import threading
import time

from tasks.environments.base import Turn


class Echo:
    """Says the turn's number and how many characters it read; done after ``turns``, worth what it read."""

    def __init__(self, turns=3):
        self.turns, self.count = turns, 0

    def start(self, problem):
        self.problem = problem

    def step(self, said):
        self.count += 1
        worth = (sum(map(ord, said)) + self.problem.seed) % 2
        return Turn(f"{self.count}: {len(said)}", reward=float(worth), done=self.count >= self.turns)


class Once(Echo):
    def __init__(self):
        super().__init__(1)


class Silent(Echo):
    """Gives no reward: the task's judge does."""

    def step(self, said):
        turn = super().step(said)
        return Turn(turn.said, done=turn.done)


class Knowing(Silent):
    """Tells the judge the right answer to every second problem, whatever the model said."""

    def get_answer(self):
        return self.problem.answer if int(self.problem.answer) % 2 else None


class Late(Echo):
    """Answers after a while that no seed tells."""

    def step(self, said):
        time.sleep(os.urandom(1)[0] / 2000)
        return super().step(said)


class Patient(Echo):
    """The last one waits for another's second turn."""

    def __init__(self, folder):
        super().__init__()
        self.second = pathlib.Path(folder) / "second"

    def step(self, said):
        turn = super().step(said)
        if self.count > 1:
            self.second.touch()
        while self.problem.question.startswith("last") and not self.second.exists():
            time.sleep(0.01)
        return turn


class Stillborn(Echo):
    def start(self, problem):
        raise KeyError("no such thing")


class Fleeting(Echo):
    """Dies between its first turn and its second."""

    def step(self, said):
        turn = super().step(said)
        if self.count == 1:
            threading.Timer(0.02, os._exit, (7,)).start()
        else:
            time.sleep(2)
        return turn


class Hostile(Echo):
    """Misbehaves in its second turn, as the question says."""

    def step(self, said):
        turn, kind = super().step(said), self.problem.question.split()[0]
        if self.count == 2:
            if kind == "hang":
                time.sleep(600)
            if kind == "crash":
                os._exit(7)
            if kind == "raise":
                raise KeyError("no such thing")
            if kind == "memory":
                held = [b"x" * (1 << 26) for _ in range(64)]
            if kind == "flood":
                return Turn("f" * (1 << 20), reward=0.0)
            if kind == "noise":
                os.system("echo noise; echo noise >&2")
                print("noise" * 1000)
            if kind == "nan":
                return Turn("2", reward=float("nan"))
        return turn
'''
TRAIN = 8


def write_file(folder: Path) -> None:
    """The environments, as ``mine.py`` there."""
    (folder / "mine.py").write_text(FILE)


def settings(name: str = "mine.py:Echo", **options: Any) -> Params:
    """For a tiny model; ``options`` of the environment, and ``episode`` for its limits."""
    limits = Episode(**{"turns": 4, "turn_tokens": 6, **options.pop("episode", {})})
    longest = options.pop("max_response_tokens", 80)
    chosen = parameters(context=192)
    task = chosen.task.model_copy(update={"environment": Choice(name=name, **options), "episode": limits})
    rollout = Rollout(problems_per_round=4, samples_per_problem=3, max_response_tokens=longest)
    update = chosen.update.model_copy(update={"tokens_per_micro_batch": 512})
    more = {"task": task, "rollout": rollout, "engine": Engine(name="transformers"), "update": update}
    return chosen.model_copy(update=more)


def problems(folder: Path, questions: list[str] | None = None) -> Artefact:
    """Sums, or problems with these questions."""
    asked = questions or [f"{i} + 1 = ?" for i in range(TRAIN)]
    rows = [
        {"problem_id": f"p{i}", "question": each, "answer": str(i + 1), "level": 1, "source": "test"}
        for i, each in enumerate(asked)
    ]
    folder.mkdir(parents=True)
    for name in ("train", "held_out"):
        write_table(folder / f"{name}.parquet", pa.Table.from_pylist(rows, schema=PROBLEMS))
    return as_artefact(folder, "problems")
