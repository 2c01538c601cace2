"""A real nano that answers some sums, and what it samples: made once, in seconds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from params.load import compose
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.core.context import Context
from tasks.core.stage import Job, Stage
from tasks.prepare.model import model as make_model
from tasks.prepare.problems import problems as make_problems
from tasks.rollout.rollout import rollout
from tests.conftest import as_artefact

ROUNDS = 4
SETTINGS = (
    "model.warm_start_steps=60",
    "engine.name=transformers",
    "task.train_count=24",
    "task.held_out_count=8",
    "task.problems.level=1",
    "rollout.problems_per_round=8",
    "rollout.samples_per_problem=4",
)


def nano_parameters(method: str = "grpo", *settings: str) -> Params:
    """The parameters of ``Nano`` with another method."""
    return compose("nano", "sums", method, [*SETTINGS, *settings])


@dataclass
class Nano:
    """The first stages of a run, and a way to run more."""

    folder: Path
    context: Context
    model: Artefact = field(init=False)
    problems: Artefact = field(init=False)
    rollouts: list[Artefact] = field(init=False)
    """Those of the base model in rounds 1 to ``ROUNDS``; every problem comes more than once."""
    _count: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        params = nano_parameters()
        self.problems = self.run(make_problems, params, 0)
        self.model = self.run(make_model, params, 0, problems=self.problems)
        given = {"model": self.model, "problems": self.problems}
        self.rollouts = [self.run(rollout, params, r, **given) for r in range(1, ROUNDS + 1)]

    def run(self, stage: Stage, params: Params, round: int, **inputs: Artefact | None) -> Artefact:
        """The finished artefact of a stage."""
        out = self.folder / f"artefact-{next(self._count)}"
        out.mkdir()
        given = {name: artefact for name, artefact in inputs.items() if artefact is not None}
        measured = stage(Job(params=params, round=round, inputs=given, out=out, context=self.context))
        return as_artefact(out, getattr(stage, "__name__", "stage"), round, measured)


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nano]:
    """Shared by all tests: nothing that is made is changed."""
    folder = tmp_path_factory.mktemp("nano")
    (folder / "scratch").mkdir()
    with Context(scratch=folder / "scratch") as context:
        yield Nano(folder, context)
