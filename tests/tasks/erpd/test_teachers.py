"""``unlearn`` and ``teach``: snapshots, where they start, what they see; ``validate``: which is the best."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from params.base import BadInput
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table, write_table
from tasks.erpd.teach import snapshot, snapshots, teach, unlearn
from tasks.erpd.training import answer_batches
from tests.conftest import as_artefact
from tests.tasks.conftest import Nano
from tests.tasks.erpd.conftest import Phases, everywhere, is_base, parameters, same, weights, words

PROBABILITY = "distil.teachers.main={loss: probability, steps: 6, problems_per_step: 4, snapshot_every: 2}"


def test_the_unlearned_policy_is_the_start_of_a_probability_teacher(phases: Phases) -> None:
    """With the same options it takes the same steps: an early checkpoint, bit for bit."""
    teacher = phases.taught(PROBABILITY)
    assert snapshots(teacher, "main") == [2, 4, 6]
    assert snapshots(phases.unlearn, "unlearned") == [2, 4]
    for step in (2, 4):
        assert same(snapshot(teacher, "main", step), snapshot(phases.unlearn, "unlearned", step))


def test_it_may_have_a_step_length_of_its_own(phases: Phases, nano: Nano) -> None:
    other = nano.run(unlearn, parameters("distil.unlearn.learning_rate=1e-3"), 1, **phases.given)
    assert not same(snapshot(other, "unlearned", 2), snapshot(phases.unlearn, "unlearned", 2))


def test_the_probability_of_right_answers_falls_before_it_rises(phases: Phases, nano: Nano) -> None:
    """Unlearning: on the answers that it is fitted to, the loss goes down all the while."""
    teacher = phases.taught(
        "distil.teachers.main={loss: probability, steps: 40, problems_per_step: 8, snapshot_every: 8}",
        "distil.teachers.main.learning_rate=1e-3",
    )
    table = read_table(nano.rollouts[0].file("rollouts.parquet"))
    lengths = [len(response) for response in table["response_ids"].to_pylist()]
    outcome = np.repeat(table["reward"].to_numpy(), lengths)
    right, error = [], []
    for step in (None, *snapshots(teacher, "main")):
        folder = snapshot(teacher, "main", step) if step else None
        probability = everywhere(nano, folder).gather(1, words(nano))[:, 0].exp().numpy()
        right.append(float(probability[outcome == 1.0].mean()))
        error.append(float(((probability - outcome) ** 2).mean()))
    assert min(right[1:-1]) < right[0]
    assert right[-1] > min(right)
    assert error[-1] < error[0]


@pytest.mark.parametrize("loss", ["cross_entropy", "probability", "likelihood"])
def test_a_teacher_may_recover_from_the_unlearned_policy(phases: Phases, loss: str) -> None:
    settings = (
        "distil.teachers.main.start=unlearned",
        f"distil.teachers.main.loss={loss}",
        "distil.unlearned_step=2",
        "distil.teachers.main.learning_rate=1e-12",
    )
    still = phases.taught(*settings, unlearn=phases.unlearn)
    began = weights(snapshot(phases.unlearn, "unlearned", 2))
    for name, tensor in weights(snapshot(still, "main", 6)).items():
        assert float((tensor - began[name]).abs().max()) < 1e-6
    last = phases.taught(*settings[:2], unlearn=phases.unlearn)
    assert not same(snapshot(last, "main", 6), snapshot(phases.unlearn, "unlearned", 4))


def test_an_unlearned_step_that_was_not_kept_is_told(phases: Phases) -> None:
    with pytest.raises(BadInput, match="step 3 was not kept; expected one of 2, 4"):
        snapshot(phases.unlearn, "unlearned", 3)


def test_teachers_do_not_know_of_each_other(phases: Phases, nano: Nano) -> None:
    settings = "distil.teachers.second={loss: sapo, epochs: 2, problems_per_step: 3, kl_coefficient: 0.3}"
    taught = nano.run(teach, parameters(settings), 1, **phases.given)
    assert snapshots(taught, "second") == [math.ceil(8 / 3) * 2]
    assert taught.json("metrics.json")["second"]["steps"] == 6
    assert taught.json("metrics.json")["second"]["kl.divergence"] >= 0.0
    assert same(snapshot(taught, "main", None), snapshot(phases.teach, "main", None))


def test_the_same_inputs_give_the_same_bytes(phases: Phases, nano: Nano) -> None:
    assert phases.taught().digest == phases.teach.digest
    assert phases.validated().digest == phases.validate.digest
    assert phases.signals().digest == phases.signal.digest
    assert phases.distilled().digest == phases.distilled().digest


def test_the_best_snapshot_is_that_of_the_held_out_measure(phases: Phases, nano: Nano) -> None:
    said = phases.validate.json("metrics.json")
    measured = said["teachers"]["main"]["steps"]
    assert set(measured) == {"2", "4", "6"}
    top = max(each["accuracy"] for each in measured.values())
    assert said["teachers"]["main"]["best"] == min(
        int(step) for step, each in measured.items() if each["accuracy"] == top
    )
    by_loss = phases.validated("distil.validation.measure=loss").json("metrics.json")["teachers"]["main"]
    least = min(each["loss"] for each in by_loss["steps"].values())
    assert by_loss["steps"][str(by_loss["best"])]["loss"] == least
    for each in measured.values():
        assert each["kl"] > 0.0
        assert each["gain"] == pytest.approx(each["accuracy"] - said["base"]["accuracy"], abs=1e-9)


def test_teachers_are_measured_on_problems_that_the_round_did_not_ask(phases: Phases, nano: Nano) -> None:
    asked = set(read_table(nano.rollouts[0].file("rollouts.parquet"))["problem_id"].to_pylist())
    answers = read_table(phases.validate.file("answers.parquet"))
    held_out = set(read_table(nano.problems.file("held_out.parquet"))["problem_id"].to_pylist())
    chosen = set(answers["problem_id"].to_pylist())
    assert len(chosen) == 6
    assert not chosen & (asked | held_out)
    assert answers.num_rows == 24


def rewarded(nano: Nano, name: str, rewards: list[float | None]) -> Artefact:
    """The first answers with other rewards."""
    table = read_table(nano.rollouts[0].file("rollouts.parquet"))
    folder = nano.folder / name
    folder.mkdir()
    place = table.column_names.index("reward")
    other = pa.array(rewards, pa.float32())
    write_table(folder / "rollouts.parquet", table.set_column(place, table.schema.field("reward"), other))
    return as_artefact(folder, "rollout", 1)


def test_a_teacher_that_learnt_nothing_leaves_the_base_as_it_is(phases: Phases, nano: Nano) -> None:
    count = len(read_table(nano.rollouts[0].file("rollouts.parquet")))
    agreed = rewarded(nano, "agreed", [1.0] * count)
    taught = phases.taught("distil.teachers.main.loss=sapo", rollout=agreed)
    assert taught.json("metrics.json")["main"]["steps"] == 0
    said = phases.signals("distil.signals.main.step=last", rollout=agreed, teach=taught)
    assert said.json("metrics.json")["main"]["std"] == pytest.approx(0.0, abs=1e-7)
    student = phases.distilled(rollout=agreed, signal=said)
    assert is_base(nano, student.path)


@pytest.mark.parametrize("loss", ["cross_entropy", "probability", "likelihood"])
def test_a_loss_of_outcomes_refuses_rewards_that_are_none(phases: Phases, nano: Nano, loss: str) -> None:
    count = len(read_table(nano.rollouts[0].file("rollouts.parquet")))
    given = rewarded(nano, f"beyond-{loss}", [1.5, -0.5] * (count // 2))
    with pytest.raises(BadInput, match=r"main: rewards from -0.5 to 1.5; expected outcomes within 0 and 1"):
        phases.taught(f"distil.teachers.main.loss={loss}", rollout=given)
    phases.taught("distil.teachers.main.loss=grpo", "distil.teachers.main.steps=1", rollout=given)


def test_answers_that_nobody_judged_teach_nothing(phases: Phases, nano: Nano) -> None:
    count = len(read_table(nano.rollouts[0].file("rollouts.parquet")))
    taught = phases.taught(rollout=rewarded(nano, "unjudged", [None] * count))
    assert taught.json("metrics.json")["main"]["answers"] == 0
    assert is_base(nano, snapshot(taught, "main", None))


@pytest.mark.parametrize(
    ("count", "steps", "size"), [(32, 10, None), (32, 32, None), (30, 4, 7), (5, 8, None)]
)
def test_an_epoch_of_the_student_uses_each_answer_once(count: int, steps: int, size: int | None) -> None:
    parts = answer_batches(0, 1, (0, 0, 0), count, steps, size)
    used = [place for part in parts for place in part]
    assert len(used) == len(set(used)) == (count if size is None else steps * size)
    assert len(parts) == min(steps, count)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts != answer_batches(0, 1, (0, 1, 0), count, steps, size)
