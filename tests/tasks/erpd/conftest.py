"""One round of ERPD on nano, and a way to run any of its stages again with other options."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from params.load import compose
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table
from tasks.erpd.distil import distil
from tasks.erpd.signal import signal
from tasks.erpd.teach import teach, unlearn
from tasks.erpd.validate import validate
from tasks.policy.policy import Policy
from tests.tasks.conftest import SETTINGS, Nano

SHORT = (
    "distil.unlearn={steps: 4, problems_per_step: 4, snapshot_every: 2, relative_rate: 1.0}",
    "distil.teachers.main={loss: cross_entropy, steps: 6, problems_per_step: 4, snapshot_every: 2}",
    "distil.teachers.main.beta=0.05",
    "distil.teachers.main.relative_rate=1.0",
    "distil.student.relative_rate=1.0",
    "distil.student.steps=4",
    "distil.validation={problems: 6, samples: 4}",
    "update.learning_rate=3e-3",
)


def parameters(*settings: str) -> Params:
    """Of a short round."""
    return compose("nano", "sums", "erpd", [*SETTINGS, *SHORT, *settings])


class Phases:
    """The stages of one round, each made once with the same options."""

    def __init__(self, nano: Nano) -> None:
        self.nano = nano
        self.given = {"model": nano.model, "rollout": nano.rollouts[0]}
        self.unlearn = nano.run(unlearn, parameters(), 1, **self.given)
        self.teach = self.taught()
        self.validate = self.validated()
        self.signal = self.signals()

    def taught(self, *settings: str, **other: Artefact | None) -> Artefact:
        """Another ``teach``."""
        return self.nano.run(teach, parameters(*settings), 1, **{**self.given, **other})

    def validated(self, *settings: str, **other: Artefact | None) -> Artefact:
        """Another ``validate``."""
        inputs = {**self.given, "problems": self.nano.problems, "teach": self.teach, **other}
        return self.nano.run(validate, parameters(*settings), 1, **inputs)

    def signals(self, *settings: str, round: int = 1, **other: Artefact | None) -> Artefact:
        """Another ``signal``, which may ask for all that there is."""
        inputs = {**self.given, "teach": self.teach, "unlearn": self.unlearn, "validate": self.validate}
        return self.nano.run(signal, parameters(*settings), round, **{**inputs, **other})

    def distilled(self, *settings: str, **other: Artefact | None) -> Artefact:
        """Another ``distil``, of the signal of the same settings unless one is given."""
        said = other.pop("signal", None) or self.signals(*settings)
        inputs = {**self.given, "teach": self.teach, "unlearn": self.unlearn, "validate": self.validate}
        return self.nano.run(distil, parameters(*settings), 1, **{**inputs, "signal": said, **other})


@pytest.fixture(scope="session")
def phases(nano: Nano) -> Phases:
    """Shared by all tests: nothing that is made is changed."""
    return Phases(nano)


def best_of(phases: Phases) -> int:
    """The step of the best snapshot of the teacher."""
    best: int = phases.validate.json("metrics.json")["teachers"]["main"]["best"]
    return best


def weights(folder: Path) -> dict[str, Tensor]:
    """Of a policy that lies there."""
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def same(one: Path, other: Path) -> bool:
    """Whether two policies are equal, bit for bit."""
    first, second = weights(one), weights(other)
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def is_base(nano: Nano, folder: Path) -> bool:
    """Whether the policy that lies there is the base model."""
    base = Policy.open(nano.model.path, parameters())
    return all(torch.equal(tensor, base.weights.masters[n]) for n, tensor in weights(folder).items())


def everywhere(nano: Nano, folder: Path | None) -> Tensor:
    """log pi [T, V] of a policy at every token of the first answers, by transformers alone."""
    policy = Policy.open(nano.model.path, parameters())
    policy.restore(folder)
    found = []
    for prompt, response in zip(*rows(nano.rollouts[0]), strict=True):
        logits = policy.network(input_ids=torch.tensor([prompt + response])).logits[0]
        found.append(logits[len(prompt) - 1 : -1].detach().log_softmax(-1))
    return torch.cat(found)


def rows(artefact: Artefact) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses of a rollout."""
    table = read_table(artefact.file("rollouts.parquet"))
    return table["prompt_ids"].to_pylist(), table["response_ids"].to_pylist()


def words(nano: Nano) -> Tensor:
    """[T, 1] the tokens of the first answers."""
    return torch.tensor([token for response in rows(nano.rollouts[0])[1] for token in response])[:, None]


def tokens(artefact: Artefact, column: str) -> Tensor:
    """[T] a column of ``signal.parquet``."""
    read = read_table(artefact.file("signal.parquet"))
    return torch.tensor([value for part in read[column].to_pylist() for value in part])
