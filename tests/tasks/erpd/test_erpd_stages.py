"""ERPD's stages on nano: what the teachers see, what the signal says, how far the student goes."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from params.base import BadInput
from params.load import compose
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table, write_table
from tasks.erpd.distil import distil
from tasks.erpd.signal import signal
from tasks.erpd.teach import teach, unlearn
from tasks.erpd.training import held_out
from tasks.policy.policy import Policy
from tests.conftest import as_artefact
from tests.tasks.conftest import SETTINGS, Nano

SHORT = (
    "distil.teachers.main.epochs=4",
    "distil.student.epochs=3",
    "distil.student.minibatches=2",
    "distil.teachers.main.minibatches=1",
    "distil.student.budget=0.01",
    "update.learning_rate=3e-3",
)


def parameters(*settings: str) -> Params:
    return compose("nano", "sums", "erpd", [*SETTINGS, *SHORT, *settings])


class Phases:
    """The stages of one round, and a way to run any of them again."""

    def __init__(self, nano: Nano) -> None:
        self.nano = nano
        self.given = {"model": nano.model, "rollout": nano.rollouts[0]}
        self.teach = nano.run(teach, parameters(), 1, **self.given)
        self.unlearn = nano.run(unlearn, parameters(), 1, **self.given)
        self.signal = self.signals()

    def signals(self, *settings: str, **other: Artefact | None) -> Artefact:
        inputs = {**self.given, "teach": self.teach, "unlearn": self.unlearn, **other}
        return self.nano.run(signal, parameters(*settings), 1, **inputs)

    def distil(self, *settings: str, **other: Artefact | None) -> Artefact:
        inputs = {**self.given, "signal": self.signal, **other}
        return self.nano.run(distil, parameters(*settings), 1, **inputs)

    def distil_with_teachers(self, *settings: str) -> Artefact:
        said = self.signals(*settings)
        return self.distil(*settings, signal=said, teach=self.teach, unlearn=self.unlearn)


@pytest.fixture(scope="module")
def phases(nano: Nano) -> Phases:
    return Phases(nano)


def weights(artefact: Path) -> dict[str, Tensor]:
    return load_file(artefact / "adapter" / "adapter_model.safetensors")


def rows(artefact: Artefact) -> tuple[list[list[int]], list[list[int]]]:
    table = read_table(artefact.file("rollouts.parquet"))
    return table["prompt_ids"].to_pylist(), table["response_ids"].to_pylist()


def everywhere(nano: Nano, artefact: Artefact | None) -> Tensor:
    """log pi [T, V] of a policy at every token of the first answers, by transformers alone."""
    policy = Policy.open(nano.model.path, parameters())
    policy.restore(artefact.path if artefact else None)
    found = []
    for prompt, response in zip(*rows(nano.rollouts[0]), strict=True):
        logits = policy.network(input_ids=torch.tensor([prompt + response])).logits[0]
        found.append(logits[len(prompt) - 1 : -1].detach().log_softmax(-1))
    return torch.cat(found)


def test_the_signal_is_the_contrast_without_its_mean_under_the_base(phases: Phases, nano: Nano) -> None:
    beside = read_table(phases.signals("distil.signal.mode=weak").file("signal.parquet"))
    rollouts = read_table(nano.rollouts[0].file("rollouts.parquet"))
    assert [beside[n].to_pylist() for n in ("group", "sample")] == [
        rollouts[n].to_pylist() for n in ("group", "sample")
    ]
    base, teacher, unlearned = (everywhere(nano, a) for a in (None, phases.teach, phases.unlearn))
    words = torch.tensor([token for response in rows(nano.rollouts[0])[1] for token in response])[:, None]
    told = {
        n: torch.tensor([x for part in beside[n].to_pylist() for x in part])
        for n in ("base_logp", "raw", "signal")
    }
    torch.testing.assert_close(told["base_logp"], base.gather(1, words)[:, 0], rtol=0.0, atol=1e-4)
    contrast = teacher - unlearned
    torch.testing.assert_close(told["raw"], contrast.gather(1, words)[:, 0], rtol=0.0, atol=1e-3)
    mean = (base.exp() * contrast).sum(-1)
    torch.testing.assert_close(told["signal"], contrast.gather(1, words)[:, 0] - mean, rtol=0.0, atol=1e-3)


def test_the_choice_of_mode_is_measured_and_recorded(phases: Phases) -> None:
    said = phases.signal.json("metrics.json")
    assert said["asked"] == "auto"
    assert set(said["auc"]) == set(said["auc_seen"]) == {"strong", "weak"}
    known = {mode: value for mode, value in said["auc"].items() if value is not None}
    best = max(known, key=lambda mode: known[mode]) if known else "strong"
    clearly_worse = known and known[best] + 2.0 * said["auc_error"] < 0.5
    assert said["mode"] == ("none" if clearly_worse else best)
    assert said["auc_seen"]["weak"] > 0.6  # it has learnt what it was shown
    assert said["held_out_problems"] == 1
    assert min(said["teachers"]["main"].values()) > 0.0


def test_a_signal_that_clearly_ranks_wrong_answers_higher_is_dropped(phases: Phases, nano: Nano) -> None:
    table = read_table(nano.rollouts[0].file("rollouts.parquet"))
    unseen = held_out(parameters("distil.hold_out=0.5"), 1, table)
    beside = read_table(phases.signals("distil.signal.mode=strong").file("signal.parquet"))
    whole = [sum(values) for values in beside["raw"].to_pylist()]
    groups, reward = table["group"].to_pylist(), table["reward"].to_pylist()
    for name in unseen:  # of each problem's answers, those that the signal likes least are right
        mine = [i for i, group in enumerate(groups) if group == name]
        for rank, i in enumerate(sorted(mine, key=lambda i: whole[i])):
            reward[i] = float(rank < len(mine) // 2)
    other = nano.folder / "turned"
    other.mkdir()
    place = table.column_names.index("reward")
    turned = table.set_column(place, table.schema.field("reward"), pa.array(reward, pa.float32()))
    write_table(other / "rollouts.parquet", turned)
    rollout = as_artefact(other, "rollout", 1)
    said = phases.signals("distil.hold_out=0.5", rollout=rollout, unlearn=None)
    assert said.json("metrics.json")["auc"]["strong"] < 0.1
    assert said.json("metrics.json")["mode"] == "none"
    student = phases.distil(rollout=rollout, signal=said)
    assert student.json("metrics.json")["kl"] == 0.0
    base = Policy.open(nano.model.path, parameters())
    for name, tensor in weights(student.path).items():
        assert torch.equal(tensor, base.weights.masters[name])


@pytest.mark.parametrize("mode", ["strong", "weak", "extrapolated"])
def test_the_student_stays_within_its_budget(phases: Phases, nano: Nano, mode: str) -> None:
    asked = f"distil.signal.mode={mode}"
    made = phases.distil(asked, signal=phases.signals(asked))
    said = made.json("metrics.json")
    assert (said["mode"], said["stopped"]) == (mode, "budget")
    base, student = everywhere(nano, None), everywhere(nano, made)
    measured = float((student.exp() * (student - base)).sum(-1).double().mean())
    assert said["kl"] == pytest.approx(measured, rel=1e-2)
    assert 0.94 * said["budget"] < measured <= said["budget"] * 1.001


def test_some_of_the_answers_may_stand_for_all(phases: Phases, nano: Nano) -> None:
    asked = ("distil.signal.mode=strong", "distil.student.measured_answers=8")
    made = phases.distil(*asked, signal=phases.signals(*asked))
    base, student = everywhere(nano, None), everywhere(nano, made)
    lengths = [len(response) for response in rows(nano.rollouts[0])[1]]
    parts = list((student.exp() * (student - base)).sum(-1).double().split(lengths))
    found = float(torch.cat(parts[:: len(parts) // 8]).mean())
    assert made.json("metrics.json")["kl"] == pytest.approx(found, rel=1e-2)
    assert found <= 0.01 * 1.001


def test_the_divergence_is_measured_where_the_budget_may_be_left(phases: Phases, nano: Nano) -> None:
    slow = ("distil.student.learning_rate=5e-5", "distil.student.epochs=20", "distil.signal.mode=strong")
    made = phases.distil(*slow, signal=phases.signals("distil.signal.mode=strong"))
    said = made.json("metrics.json")
    assert said["stopped"] == "budget"
    assert said["steps"] > 10
    assert said["measured"] < said["steps"]
    base, student = everywhere(nano, None), everywhere(nano, made)
    measured = float((student.exp() * (student - base)).sum(-1).double().mean())
    assert 0.94 * said["budget"] < measured <= said["budget"] * 1.001


def test_a_budget_out_of_reach_ends_with_the_epochs(phases: Phases) -> None:
    said = phases.distil("distil.student.budget=100.0", "distil.signal.mode=weak").json("metrics.json")
    assert said["stopped"] == "epochs"
    assert said["steps"] == 6
    assert said["last_share"] == 1.0


@pytest.mark.parametrize("spread", ["mean", "state"])
def test_the_exact_target_is_approached_within_the_budget(phases: Phases, nano: Nano, spread: str) -> None:
    settings = (
        "distil.student.target=exact",
        f"distil.student.spread={spread}",
        "distil.signal.mode=strong",
    )
    made = phases.distil_with_teachers(*settings)
    said = made.json("metrics.json")
    assert 0.0 < said["kl"] <= 0.01
    assert (said["eta"] is None) == (spread == "state")
    base, teacher, student = (everywhere(nano, a) for a in (None, phases.teach, made))

    def distance(policy: Tensor) -> float:
        return float((policy.exp() * (policy - teacher)).sum(-1).mean())

    assert distance(student) < distance(base)


def test_fresh_answers_are_the_students_own(phases: Phases) -> None:
    settings = ("distil.student.answers=fresh", "distil.signal.mode=weak", "distil.student.epochs=1")
    settings += ("distil.student.budget=0.2",)
    one, two = (phases.distil_with_teachers(*settings) for _ in range(2))
    assert one.digest == two.digest
    said = one.json("metrics.json")
    assert said["answers"] == 2 * 32
    assert 0.0 < said["kl"] <= 0.2


def test_the_same_inputs_give_the_same_bytes(phases: Phases, nano: Nano) -> None:
    assert nano.run(teach, parameters(), 1, **phases.given).digest == phases.teach.digest
    assert phases.signals().digest == phases.signal.digest
    assert phases.distil().digest == phases.distil().digest


def test_no_teacher_sees_the_problems_that_are_held_out(phases: Phases, nano: Nano) -> None:
    table = read_table(nano.rollouts[0].file("rollouts.parquet"))
    unseen = held_out(parameters(), 1, table)
    assert len(unseen) == 1
    flipped = [
        1.0 - reward if group in unseen and reward is not None else reward
        for group, reward in zip(table["group"].to_pylist(), table["reward"].to_pylist(), strict=True)
    ]
    place = table.column_names.index("reward")
    other = nano.folder / "flipped"
    other.mkdir()
    write_table(
        other / "rollouts.parquet",
        table.set_column(place, table.schema.field("reward"), pa.array(flipped, pa.float32())),
    )
    given = {**phases.given, "rollout": as_artefact(other, "rollout", 1)}
    assert nano.run(teach, parameters(), 1, **given).digest == phases.teach.digest


def test_a_teacher_that_learnt_nothing_leaves_the_base_as_it_is(phases: Phases, nano: Nano) -> None:
    table = read_table(nano.rollouts[0].file("rollouts.parquet"))
    same = nano.folder / "same"
    same.mkdir()
    reward = pa.array([1.0] * table.num_rows, pa.float32())
    place = table.column_names.index("reward")
    write_table(same / "rollouts.parquet", table.set_column(place, table.schema.field("reward"), reward))
    settings = ("distil.teachers.main.loss=sapo", "distil.signal.mode=strong")
    given = {**phases.given, "rollout": as_artefact(same, "rollout", 1)}
    taught = nano.run(teach, parameters(*settings), 1, **given)
    assert taught.json("metrics.json")["main"]["steps"] == 0
    said = nano.run(signal, parameters(*settings), 1, **given, teach=taught)
    assert said.json("metrics.json")["std"] == pytest.approx(0.0, abs=1e-7)
    student = nano.run(distil, parameters(*settings), 1, **given, signal=said)
    base = Policy.open(nano.model.path, parameters())
    for name, tensor in weights(student.path).items():
        assert torch.equal(tensor, base.weights.masters[name])


def test_several_teachers_are_weighed_by_their_spread(phases: Phases, nano: Nano) -> None:
    settings = (
        "distil.teachers.second={loss: sapo, epochs: 2}",
        "distil.signal.weights={second: 3.0}",
        "distil.signal.mode=strong",
    )
    taught = nano.run(teach, parameters(*settings), 1, **phases.given)
    assert weights(taught.path).keys() == weights(taught.path / "second").keys()
    for name, tensor in weights(phases.teach.path).items():
        assert torch.equal(tensor, weights(taught.path)[name])  # the first does not know of the second
    said = phases.signals(*settings, teach=taught, unlearn=None).json("metrics.json")
    assert set(said["factors"]) == {"main", "second"}
    assert all(math.isfinite(value) and value > 0 for value in said["factors"].values())
    single = phases.signals("distil.signal.mode=strong", unlearn=None).json("metrics.json")
    assert single["factors"] == {"main": 1.0}


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("distil.student.budgte=1", "did you mean 'budget'"),
        ("distil.teachers.main.loss=cross", "distil.teachers.main.loss"),
        ("distil.hold_out=0", "expected distil.hold_out > 0"),
        ("distil.signal.weights={other: 1}", "no such teacher; known: main"),
        ("method.replay={name: dyjr}", "method.replay"),
    ],
)
def test_impossible_options_are_refused_at_the_door(setting: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parameters(setting)
